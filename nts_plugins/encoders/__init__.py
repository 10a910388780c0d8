# SPDX-License-Identifier: Apache-2.0
"""2D foundation models behind small protocols (:mod:`nts_plugins.encoders.base`). Their libraries are imported inside
functions: who does without an encoder need not have it."""
