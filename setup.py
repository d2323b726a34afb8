"""Build of the two extensions: ``_C`` (operators, LibTorch stable ABI) and ``graph._builder`` (pybind11).

The environment variables are described in docs/install.md.
"""

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).resolve().parent
TORCH_TARGET = (2, 11)  # the oldest LibTorch whose stable ABI the operators use
TORCH_RANGE = ((2, 11), (2, 14))  # built with a torch from the first version on, below the second
RELEASE_ARCHS = "80;90;100+PTX"
ONE_ARCH = "80+PTX"
# Sources by falling compile time: the longest start first, so that the jobs end together.
SLOWEST = (
    *("lookup.cu", "update.cu", "attention.cu"),
    *("lookup_baseline.cpp", "lookup_avx2.cpp", "attention_baseline.cpp", "attention_avx2.cpp"),
)
# pip asks for the requirements and the metadata in processes of their own: they compile nothing, and are spared the
# seconds that torch takes to import.
DESCRIBES = {"egg_info", "dist_info", "sdist"}
COMPILES = not DESCRIBES & set(sys.argv[1:]) or bool({"build", "build_ext", "bdist_wheel"} & set(sys.argv[1:]))


def installed_torch(folders: list[str]) -> str | None:
    """The first of the folders that holds a torch to build with; None without one."""
    for folder in folders:
        for found in metadata.distributions(name="torch", path=[folder]):
            version = tuple(int(part) for part in re.findall(r"\d+", found.version)[:2])
            if TORCH_RANGE[0] <= version < TORCH_RANGE[1]:
                return folder
    return None


def torch_here() -> tuple[list[str], str | None]:
    """What an isolated build has to install, and else the folder that it takes torch from.

    pip hides an environment's packages from its builds. A second torch of gigabytes for the build alone is spared
    where the environment has a fitting one.
    """
    if installed_torch(sys.path):
        return [], None
    folder = installed_torch([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    needs = "torch>={}.{},<{}.{}".format(*TORCH_RANGE[0], *TORCH_RANGE[1])
    return ([], folder) if folder else ([needs], None)


def sources(folder: str, suffix: str) -> list[str]:
    """The sources of a folder of csrc, the slowest to compile first."""

    def order(path: Path) -> tuple[int, int]:
        place = SLOWEST.index(path.name) if path.name in SLOWEST else len(SLOWEST)
        return place, -path.stat().st_size

    return [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "csrc" / folder).glob(f"*{suffix}"), key=order)]


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


def compute_capabilities() -> list[int]:
    """Those of the GPUs that the CUDA driver shows here, such as 90; empty without a driver or GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    found = set()
    for device in range(count.value):
        major, minor = ctypes.c_int(), ctypes.c_int()
        # Attributes 75 and 76: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
        if driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device) == 0:
            driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
            found.add(10 * major.value + minor.value)
    return sorted(found)


def choose_archs(nvcc: Path) -> tuple[str, str]:
    """The architectures to compile for, such as "80;90+PTX", and why these."""
    given = os.environ.get("RESEMB_CUDA_ARCHS", "native")
    if given == "all":
        return RELEASE_ARCHS, "RESEMB_CUDA_ARCHS=all"
    if given != "native":
        return given, "RESEMB_CUDA_ARCHS"
    here = compute_capabilities()
    if not here:
        return ONE_ARCH, "no GPU here: one architecture, and PTX for newer ones"
    listed = subprocess.run([str(nvcc), "--list-gpu-arch"], capture_output=True, text=True).stdout
    known = sorted(int(number) for number in re.findall(r"^compute_(\d+)$", listed, re.MULTILINE))
    if all(capability in known for capability in here):
        return ";".join(map(str, here)), "the GPU here" if len(here) == 1 else "the GPUs here"
    below = [number for number in known if number < here[0]]
    if not below:
        return ONE_ARCH, f"this nvcc knows no architecture for the GPU here ({here[0]})"
    return f"{below[-1]}+PTX", f"the newest that this nvcc knows below the GPU here ({here[0]})"


def arch_flags(archs: str) -> list[str]:
    """nvcc -gencode flags for a list such as "80;90;100+PTX"."""
    flags = []
    for arch in filter(None, re.split(r"[;, ]+", archs)):
        match = re.fullmatch(r"(\d+a?)(\+PTX)?", arch.replace(".", ""))
        if not match:
            raise SystemExit(f"RESEMB_CUDA_ARCHS: {arch!r} is not native, all or an architecture such as 100+PTX")
        number, ptx = match.groups()
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    if not flags:
        raise SystemExit("RESEMB_CUDA_ARCHS is empty; expected native, all or for example 80;90;100+PTX")
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


def compile_cuda(root: Path, archs: str, folder: Path) -> list[str]:
    """Objects of csrc/cuda, made by nvcc where they are not up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    headers = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cuh")]
    newest_header = max((p.stat().st_mtime for p in headers), default=0.0)
    refuse_spills = os.environ.get("RESEMB_CUDA_SPILLS") == "1"
    # As torch does for the C++ sources.
    ccache = shutil.which("ccache") if not os.environ.get("TORCH_NO_COMPILER_WRAPPER") else None
    compiler = [*([ccache] if ccache else []), str(root / "bin" / "nvcc")]
    flags = [
        *("-O3", "-std=c++20", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden,-g0"),
        *(["-Xptxas", "-v"] if refuse_spills else []),
        f"-I{ROOT / 'csrc'}",
        *arch_flags(archs),
    ]

    def compile_one(source: str) -> str:
        target = folder / (Path(source).name + ".o")
        stamp = target.with_suffix(".flags")
        command = [*compiler, *flags, "-c", str(ROOT / source), "-o", str(target)]
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


def build() -> dict[str, Any]:
    """What setup() takes to compile the extensions."""
    import pybind11

    folder = torch_here()[1]
    if folder:
        sys.path.append(folder)
    import torch
    from setuptools import Extension
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    root, why_not = cuda_root()
    archs, archs_why = choose_archs(root / "bin" / "nvcc") if root else ("", "")
    sanitize = os.environ.get("RESEMB_SANITIZE", "")
    sanitize_flags = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g1"] if sanitize else []
    # Flags come behind those that Python was built with, among them -g.
    flags = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-psabi", "-Wno-restrict", *sanitize_flags]
    defines = [("TORCH_TARGET_VERSION", f"0x{TORCH_TARGET[0]:02x}{TORCH_TARGET[1]:02x}000000000000")]
    link_flags = sanitize_flags or ["-Wl,-s"]

    class Build(BuildExtension):
        """Adds the nvcc objects to ``_C`` and writes what was built beside the package."""

        def build_extensions(self) -> None:
            with ThreadPoolExecutor(1) as aside:  # nvcc works while the first extension is compiled
                if root:
                    folder = Path(self.build_temp).resolve() / "cuda"
                    self.cuda_objects = aside.submit(compile_cuda, root, archs, folder)
                super().build_extensions()

        def build_extension(self, extension: Extension) -> None:
            if root and extension.name == "resemb_ext._C":
                extension.extra_objects = self.cuda_objects.result()
            super().build_extension(extension)

        def run(self) -> None:
            super().run()
            info = {
                "torch_built_with": torch.__version__,
                "torch_needed": ">=" + ".".join(map(str, TORCH_TARGET)),
                "python": platform.python_version(),
                "cuda": bool(root),
                "cuda_archs": archs,
                "cuda_archs_why": archs_why,
                "cuda_why_not": why_not,
                "sanitize": sanitize,
            }
            place = ROOT if self.inplace else Path(self.build_lib)
            (place / "resemb_ext" / "_build.json").write_text(json.dumps(info, indent=1) + "\n")

    cuda_sources, cuda_link, cuda_folders = [], [], []
    if root:
        defines.append(("RESEMB_WITH_CUDA", "1"))
        cuda_sources = sources("cuda", ".cpp")
        cuda_link = ["-l:libcudart_static.a", "-lrt", "-ldl", "-lpthread"]
        cuda_folders = [str(p) for p in (root / "lib64", root / "targets/x86_64-linux/lib") if p.exists()]
    operators = CppExtension(
        "resemb_ext._C",
        [*sources("cpu", ".cpp"), *sources("ops", ".cpp"), *cuda_sources, *sources(".", ".cpp")],
        include_dirs=[str(ROOT / "csrc")],
        # Spelled as torch does, which gives it too: else the compiler warns at every file.
        define_macros=[*defines, ("Py_LIMITED_API", "0x030A0000")],
        extra_compile_args={"cxx": flags},
        # libtorch must be a NEEDED entry: it leads to the CUDA half where torch has one.
        extra_link_args=[*link_flags, *cuda_link, "-Wl,--no-as-needed", "-ltorch"],
        library_dirs=cuda_folders,
        py_limited_api=True,
    )
    builder = Extension(
        "resemb_ext.graph._builder",
        sources("graph", ".cpp"),
        include_dirs=[pybind11.get_include(), str(ROOT / "csrc")],
        extra_compile_args=[*flags, "-pthread"],
        extra_link_args=["-pthread", *link_flags],
        language="c++",
    )
    return {"ext_modules": [builder, operators], "cmdclass": {"build_ext": Build.with_options(use_ninja=True)}}


# pip is told setup_requires as what a build needs beside pyproject.toml's list.
setup(**(build() if COMPILES else {"setup_requires": torch_here()[0]}))
