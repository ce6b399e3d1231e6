"""What asks torch for the CPU's kind (vLLM, to choose its kernels) is told that it has no AVX-512."""

import contextlib
import pathlib
import runpy
import sysconfig

# Python takes one sitecustomize; this one stands before the environment's own.
own = pathlib.Path(sysconfig.get_path("purelib")) / "sitecustomize.py"
if own.exists():
    runpy.run_path(str(own), run_name="sitecustomize")
with contextlib.suppress(ImportError):
    import torch

    for name in (
        "_is_avx512_supported",
        "_is_avx512_bf16_supported",
        "_is_vnni_supported",
        "_is_amx_tile_supported",
    ):
        setattr(torch.cpu, name, lambda: False)
