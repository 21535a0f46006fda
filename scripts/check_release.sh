#!/usr/bin/env bash
# Build sdist and wheel (the wheel from the sdist, so that both are complete), install each of them in an environment of
# its own beside the libraries of this one, and start it: its version, its commands, and a dry run, which needs the
# shipped configs and model.
# Needs `pip install build`, and the package index for hatchling.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python -m build --outdir "$work/dist" . > "$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
unset PYTHONPATH

installs_and_starts() {  # NAME FILE
    local name=$1 file=$2 env="$work/$1" site
    python -m venv --without-pip "$env"
    site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    python -m pip --python "$env/bin/python" install --quiet --no-deps "$file"
    # The libraries come behind what is installed here; after it, so that pip sees none of them.
    python - > "$site/libraries.pth" << 'PYTHON'
import sysconfig

print(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})")
PYTHON
    cd "$work"
    version=$("$env/bin/selftaught" --version)
    case "$(basename "$file")" in
        "selftaught-${version#selftaught }-"*.whl | "selftaught-${version#selftaught }.tar.gz") ;;
        *) echo "the file is $file, but --version says: $version"; exit 1 ;;
    esac
    "$env/bin/python" - "$env" << 'PYTHON'
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
for file in ("py.typed", "report/web/page/index.html", "report/web/page/main.js", "tasks/gsm8k/few_shot.toml", "tasks/commonsenseqa/few_shot.toml"):
    assert (resources.files("selftaught") / file).is_file(), file
PYTHON
    "$env/bin/selftaught" run arithmetic --dry-run > "$name.txt"
    grep -q 'Input:' "$name.txt"
    echo "$version: the $name, $(du -k "$file" | cut -f1) kB, installs and starts"
}

installs_and_starts wheel "$work"/dist/*.whl
installs_and_starts sdist "$work"/dist/*.tar.gz
