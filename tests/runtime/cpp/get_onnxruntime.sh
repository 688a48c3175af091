#!/usr/bin/env bash
# get_onnxruntime.sh DEST [PYTHON]: DEST/include and DEST/lib as a release of ONNX Runtime has them, for ONNXRUNTIME_ROOT.
#
# The headers are those of Debian trixie's libonnxruntime-dev (1.21), unpacked, not installed, whatever Debian this is: the
# machine's own package lists stay as they are. The library is that of the Python package onnxruntime, which PYTHON has
# (.venv/bin/python by default); its table of functions is that of 1.21 and of all releases before.
set -euo pipefail
dest=${1:?usage: get_onnxruntime.sh DEST [PYTHON]}
python=${2:-$(dirname "${BASH_SOURCE[0]}")/../../../.venv/bin/python}
# The mirror that this machine is set up with, of its main packages.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | sort -u | head -n 1)}

# Not imported: the library's folder alone is wanted.
folder=$("$python" -c 'import importlib.util as u; print(u.find_spec("onnxruntime").submodule_search_locations[0])')
library=$(ls "$folder"/capi/libonnxruntime.so.* | head -n 1)

apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/unpacked"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/sources.list"
options=(-q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update >/dev/null
(cd "$apt" && apt-get "${options[@]}" download libonnxruntime-dev >/dev/null)
dpkg -x "$apt"/libonnxruntime-dev_*.deb "$apt/unpacked"

mkdir -p "$dest/lib"
rm -rf "$dest/include"
cp -r "$apt/unpacked/usr/include/onnxruntime" "$dest/include"
ln -sfn "$library" "$dest/lib/libonnxruntime.so.1"
echo "$dest: headers of ONNX Runtime $(dpkg-deb -f "$apt"/libonnxruntime-dev_*.deb Version), library $library"
