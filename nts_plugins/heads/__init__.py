# SPDX-License-Identifier: Apache-2.0
"""What else a splat carries, one file a head; :mod:`nts_plugins.heads.base` is the interface."""
