"""Build of the two extensions: ``_C`` (operators, LibTorch stable ABI) and ``graph._builder`` (pybind11).

Environment variables: RESEMB_CUDA=auto|0|1 (compile csrc/cuda with nvcc; 1 makes a missing nvcc an
error), RESEMB_CUDA_ARCHS (default "80;90;100+PTX"), CUDA_HOME, MAX_JOBS,
RESEMB_CUDA_SPILLS=1 (a kernel that spills registers is an error),
RESEMB_SANITIZE=address,undefined (instrument both extensions).
"""

import json
import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import torch
from setuptools import Extension, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).resolve().parent
TORCH_TARGET = (2, 11)  # the oldest LibTorch whose stable ABI the operators use


def sources(folder: str, suffix: str) -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc" / folder).glob(f"*{suffix}"))


def cuda_root() -> tuple[Path | None, str]:
    """The CUDA toolkit's folder and, where there is none, the reason."""
    mode = os.environ.get("RESEMB_CUDA", "auto")
    if mode not in ("auto", "0", "1"):
        raise SystemExit(f"RESEMB_CUDA={mode!r}: expected auto, 0 or 1")
    if mode == "0":
        return None, "switched off by RESEMB_CUDA=0"
    home = os.environ.get("CUDA_HOME")
    nvcc = str(Path(home) / "bin" / "nvcc") if home else shutil.which("nvcc")
    reason = f"no nvcc at {nvcc}" if nvcc else "no nvcc on PATH and CUDA_HOME is not set"
    if nvcc and Path(nvcc).exists():
        # nvcc on PATH may be a wrapper script, so its folder is not always the toolkit's.
        dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
        top = re.search(r"TOP=(\S+)", dry.stderr + dry.stdout)
        root = Path(top.group(1)).resolve() if top else Path(nvcc).resolve().parent.parent
        if (root / "bin" / "nvcc").exists():
            return root, ""
        reason = f"{nvcc} does not lead to a CUDA toolkit"
    if mode == "1":
        raise SystemExit(f"RESEMB_CUDA=1 but {reason}; install the CUDA toolkit or set CUDA_HOME")
    return None, reason


def arch_flags(archs: str) -> list[str]:
    """nvcc -gencode flags for a list such as "80;90;100+PTX"."""
    flags = []
    for arch in filter(None, re.split(r"[;, ]+", archs)):
        match = re.fullmatch(r"(\d+a?)(\+PTX)?", arch.replace(".", ""))
        if not match:
            raise SystemExit(f"RESEMB_CUDA_ARCHS: {arch!r} is not an architecture such as 90 or 100+PTX")
        number, ptx = match.groups()
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    if not flags:
        raise SystemExit("RESEMB_CUDA_ARCHS is empty; expected for example 80;90;100+PTX")
    return flags


def spills(report: str) -> list[str]:
    """Kernels that spill registers, by the report of nvcc -Xptxas -v, each with its line of bytes."""
    found, kernel = [], "?"
    for line in report.splitlines():
        name = re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line)
        if name:
            kernel = f"{name.group(1)} ({name.group(2)})"
        counts = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if counts and counts.groups() != ("0", "0"):
            found.append(f"{kernel}: {line.strip()}")
    return found


CUDA_ROOT, CUDA_WHY_NOT = cuda_root()
CUDA_ARCHS = os.environ.get("RESEMB_CUDA_ARCHS", "80;90;100+PTX")
SANITIZE = os.environ.get("RESEMB_SANITIZE", "")
SANITIZE_FLAGS = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g1"] if SANITIZE else []

COMMON_FLAGS = ["-O3", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-psabi", "-Wno-restrict", *SANITIZE_FLAGS]
DEFINES = [("TORCH_TARGET_VERSION", f"0x{TORCH_TARGET[0]:02x}{TORCH_TARGET[1]:02x}000000000000")]
if CUDA_ROOT:
    DEFINES.append(("RESEMB_WITH_CUDA", "1"))


class Build(BuildExtension):
    """Adds the nvcc objects to ``_C`` and writes what was built beside the package."""

    def build_extensions(self) -> None:
        objects = self.compile_cuda() if CUDA_ROOT else []
        for extension in self.extensions:
            if extension.name == "resemb_ext._C":
                extension.extra_objects = objects
        super().build_extensions()

    def run(self) -> None:
        super().run()
        self.write_build_info()

    def compile_cuda(self) -> list[str]:
        assert CUDA_ROOT is not None
        folder = Path(self.build_temp).resolve() / "cuda"
        folder.mkdir(parents=True, exist_ok=True)
        headers = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cuh")]
        newest_header = max((p.stat().st_mtime for p in headers), default=0.0)
        refuse_spills = os.environ.get("RESEMB_CUDA_SPILLS") == "1"
        flags = [
            "-O3",
            "-std=c++20",
            "--expt-relaxed-constexpr",
            "-Xcompiler",
            "-fPIC,-fvisibility=hidden",
            "-Xptxas",
            "-v",
            f"-I{ROOT / 'csrc'}",
            *arch_flags(CUDA_ARCHS),
        ]

        def compile_one(source: str) -> str:
            target = folder / (Path(source).name + ".o")
            stamp = target.with_suffix(".flags")
            command = [str(CUDA_ROOT / "bin" / "nvcc"), *flags, "-c", str(ROOT / source), "-o", str(target)]
            fresh = (
                target.exists()
                and stamp.exists()
                and stamp.read_text() == " ".join(command)
                and target.stat().st_mtime > max(newest_header, (ROOT / source).stat().st_mtime)
            )
            report = target.with_suffix(".ptxas")
            if not fresh or not report.exists():
                print(" ".join(command), flush=True)
                done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
                if done.returncode != 0:
                    raise SystemExit(f"{done.stderr}\nnvcc failed on {source}")
                report.write_text(done.stderr)
                stamp.write_text(" ".join(command))
            spilled = spills(report.read_text()) if refuse_spills else []
            if spilled:
                raise SystemExit("\n".join([f"{source}: kernels spill registers:", *spilled]))
            return str(target)

        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(compile_one, sources("cuda", ".cu")))

    def write_build_info(self) -> None:
        info = {
            "torch_built_with": torch.__version__,
            "torch_needed": ">=" + ".".join(map(str, TORCH_TARGET)),
            "python": platform.python_version(),
            "cuda": bool(CUDA_ROOT),
            "cuda_archs": CUDA_ARCHS if CUDA_ROOT else "",
            "cuda_why_not": CUDA_WHY_NOT,
            "sanitize": SANITIZE,
        }
        place = ROOT if self.inplace else Path(self.build_lib)
        (place / "resemb_ext" / "_build.json").write_text(json.dumps(info, indent=1) + "\n")


cuda_libraries = {}
if CUDA_ROOT:
    library_dirs = [p for p in (CUDA_ROOT / "lib64", CUDA_ROOT / "targets/x86_64-linux/lib") if p.exists()]
    cuda_libraries = {"library_dirs": [str(p) for p in library_dirs]}

# libtorch must be a NEEDED entry: it leads to the CUDA half where torch has one.
link_flags = [
    *SANITIZE_FLAGS,
    *(["-l:libcudart_static.a", "-lrt", "-ldl", "-lpthread"] if CUDA_ROOT else []),
    "-Wl,--no-as-needed",
    "-ltorch",
]

operators = CppExtension(
    "resemb_ext._C",
    [*sources(".", ".cpp"), *sources("cpu", ".cpp"), *(sources("cuda", ".cpp") if CUDA_ROOT else [])],
    include_dirs=[str(ROOT / "csrc")],
    define_macros=[*DEFINES, ("Py_LIMITED_API", "0x030a0000")],
    extra_compile_args={"cxx": COMMON_FLAGS},
    extra_link_args=link_flags,
    py_limited_api=True,
    **cuda_libraries,
)
builder = Extension(
    "resemb_ext.graph._builder",
    sources("graph", ".cpp"),
    include_dirs=[pybind11.get_include(), str(ROOT / "csrc")],
    extra_compile_args=[*COMMON_FLAGS, "-pthread"],
    extra_link_args=["-pthread", *SANITIZE_FLAGS],
    language="c++",
)

setup(ext_modules=[operators, builder], cmdclass={"build_ext": Build.with_options(use_ninja=True)})
