#!/usr/bin/env bash
# Build sdist and wheel (the wheel from the sdist, so that both are complete), install the wheel beside the libraries of
# this environment, and start it: its version, its commands, and a dry run, which needs the shipped configs and model.
# Needs `pip install build`. With --no-isolation the build takes hatchling from this environment.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python -m build "$@" --outdir "$work/dist" . > "$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
wheel=("$work"/dist/*.whl) sdist=("$work"/dist/*.tar.gz)

python -m venv --without-pip "$work/env"
site=$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
python -m pip --python "$work/env/bin/python" install --quiet --no-deps --no-index "${wheel[0]}"
# The libraries come behind what is installed here.
python - > "$site/libraries.pth" << 'PYTHON'
import sysconfig

print(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})")
PYTHON

unset PYTHONPATH
cd "$work"
version=$(env/bin/selftaught --version)
case "$(basename "${wheel[0]}") $(basename "${sdist[0]}")" in
    "selftaught-${version#selftaught }-"*" selftaught-${version#selftaught }.tar.gz") ;;
    *) echo "the files are ${wheel[0]} and ${sdist[0]}, but --version says: $version"; exit 1 ;;
esac
env/bin/python - "$work/env" <<'PYTHON'
import sys
from importlib import metadata, resources
from pathlib import Path

import selftaught
from selftaught.config.loading import load_config, shipped_configs
from selftaught.models.weights import resolve_model

package = Path(selftaught.__file__).parent
assert package.is_relative_to(sys.argv[1]), f"imported from {package}"
assert metadata.version("selftaught") == selftaught.__version__
for name in selftaught.__all__:
    getattr(selftaught, name)
assert all(load_config(name).task.name for name in shipped_configs()) and len(shipped_configs()) > 3
assert resolve_model("builtin:adder").sha256
for file in ("py.typed", "web/page/index.html", "web/page/main.js", "tasks/gsm8k/few_shot.toml", "tasks/commonsenseqa/few_shot.toml"):
    assert (resources.files("selftaught") / file).is_file(), file
PYTHON
env/bin/selftaught run arithmetic --dry-run > dry-run.txt
grep -q 'Input:' dry-run.txt
echo "$version: sdist $(du -k "${sdist[0]}" | cut -f1) kB, wheel $(du -k "${wheel[0]}" | cut -f1) kB; the wheel installs and starts"
