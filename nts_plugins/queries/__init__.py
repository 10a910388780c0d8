# SPDX-License-Identifier: Apache-2.0
"""What a phrase is to a feature: pure functions, whatever carries the features."""
