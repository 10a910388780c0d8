# SPDX-License-Identifier: Apache-2.0
"""Experiments over many scenes, features, modes and seeds: what is run, where, and what can be said of it then."""
