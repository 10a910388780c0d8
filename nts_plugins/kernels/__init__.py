# SPDX-License-Identifier: Apache-2.0
"""CPU kernels: numba with explicit vectors, plain numpy arrays in and out, no nerfstudio.

``vectors`` is the vocabulary (SIMD values with operators), ``threads`` runs a kernel on several cores, and each of the
other modules holds one operation, forward and backward. The torch side of the rasterizer is
``nts_plugins.rasterization.cpu``, that of the image losses ``nts_plugins.losses``. torch is asked for the number of
threads, and ``gradients`` holds what autograd functions over kernels share.
"""

from nts_plugins.kernels import _cache as _cache
