#!/usr/bin/env bash
# import-linter 2.17 (grimp 3.20), Python 3.11: a package with a compiled extension beside its modules, as every
# C++/CUDA operator package has.
#
# Expected: `from . import _native`, where _native is a compiled module, is an import of that module, or of nothing
#           that the linter knows.
# Seen: only .py files are modules to grimp, so the line counts as an import of the package itself. Where __init__
#       imports that module, the graph holds the circle pkg -> pkg.a -> pkg, which contracts on cycles and layers then
#       judge. No warning is given. `importlib.import_module("pkg._native")` leaves no such edge.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "import-linter==2.17" "grimp==3.20"
mkdir "$place/pkg"
cd "$place"
suffix=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
echo 'from . import a' >pkg/__init__.py
echo 'from . import _native' >pkg/a.py
echo 'int answer = 42;' >native.c
: >"pkg/_native$suffix"  # the linter reads file names alone and never loads it
venv/bin/python - <<'PY'
import sys

sys.path.insert(0, ".")
import grimp

graph = grimp.build_graph("pkg", cache_dir=None)
imports = {name: sorted(graph.find_modules_directly_imported_by(name)) for name in sorted(graph.modules)}
print(imports)
assert imports == {"pkg": ["pkg.a"], "pkg.a": ["pkg"]}, "the behaviour has changed"
PY
