# SPDX-License-Identifier: Apache-2.0
"""Speed and quality, measured: each module is a command that writes JSON and a table into ``results/``."""
