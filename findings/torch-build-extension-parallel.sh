#!/usr/bin/env bash
# torch 2.13.0 (CPU), setuptools 81, ninja 1.13, Python 3.11: a package with two CppExtensions, such as operators and a
# separate helper module, built by torch.utils.cpp_extension.BuildExtension with ninja.
#
# Expected: `build_ext --parallel 2`, setuptools' own switch, compiles the two extensions at the same time.
# Seen: most such builds end in "error: ld returned 1 exit status". Both extensions write the one build.ninja of the
#       temporary folder, and the later one replaces the earlier one before ninja has read it, so that the objects of
#       one extension are never made. Without --parallel the same package always builds. An extension alone is
#       parallel anyway (MAX_JOBS); only the tails between extensions leave cores idle.
#
# Exit code 0: of eight parallel builds at least one fails so, and the plain build works. 1: that has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "torch==2.13.0" "setuptools>=77,<82" "ninja==1.13.0"
mkdir "$place/src"
cd "$place"
for name in first second; do
  cat >"src/$name.cpp" <<CPP
#include <Python.h>
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "$name", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit_$name() { return PyModule_Create(&module); }
CPP
done
cat >setup.py <<'PY'
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

parts = [CppExtension(name, [f"src/{name}.cpp"]) for name in ("first", "second")]
setup(name="pair", version="1", ext_modules=parts, cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)})
PY

build() {
  rm -rf build ./*.so
  PATH="$place/venv/bin:$PATH" venv/bin/python setup.py -q build_ext --inplace "$@" >log 2>&1
}

failed=0
for _ in 1 2 3 4 5 6 7 8; do
  if ! build --parallel 2; then
    grep -q "ld returned 1 exit status" log || { cat log; echo "another failure than known"; exit 1; }
    failed=$((failed + 1))
  fi
done
echo "$failed of 8 parallel builds failed"
build || { cat log; echo "the plain build fails"; exit 1; }
[ "$failed" -gt 0 ] || { echo "parallel builds work: the behaviour has changed"; exit 1; }
