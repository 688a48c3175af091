#!/bin/bash
# Captions examples/ with the wheel in an arm64 Debian, emulated by qemu, and compares the words with those of this machine.
#
#   tests/arm64/run_demo.sh WORK_FOLDER [RECORD]      RECORD is benchmarks/results/arm64_demo.json unless named
#
# Needs Debian or Ubuntu on x86-64 with the packages mmdebstrap, proot and qemu-user-static, and Python 3.11 (PYTHON=...)
# with venv. Nothing is registered with the kernel: proot starts qemu for each program. It takes minutes and is not part
# of `make test`. Packages are fetched by this machine's pip, because pip is slow under emulation.
set -euo pipefail

work=$(mkdir -p "${1:?name a folder for its files}" && cd "$1" && pwd)
repository=$(cd "$(dirname "$0")/../.." && pwd)
record=${2:-$repository/benchmarks/results/arm64_demo.json}
python=${PYTHON:-python3.11}
suite=bookworm  # has Python 3.11
target=$work/root

for program in mmdebstrap proot qemu-aarch64-static "$python"; do
    command -v "$program" >/dev/null || { echo "$program is not there; see the head of $0" >&2; exit 2; }
done

echo "== the wheel, installed here"
[ -d "$work/host" ] || "$python" -m venv "$work/host"
rm -rf "$work/wheel" "$work/wheels" "$target"
"$work/host/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$repository"
wheel=$(echo "$work"/wheel/camscribe-*.whl)
"$work/host/bin/python" -m pip install --quiet --upgrade "camscribe[cpu] @ file://$wheel"
"$work/host/bin/python" -m pip freeze | grep -v '^camscribe' >"$work/requirements.txt"

echo "== an arm64 Debian $suite"
mmdebstrap --quiet --architectures=arm64 --variant=extract --include=python3,libgomp1,libstdc++6 "$suite" "$target"

echo "== the same versions for arm64"
arm64=(--python-version 3.11 --only-binary=:all: --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64
    --platform manylinux2014_aarch64)
"$work/host/bin/python" -m pip download --quiet --no-deps "${arm64[@]}" --dest "$work/wheels" \
    --requirement "$work/requirements.txt"
"$work/host/bin/python" -m pip install --quiet --no-deps "${arm64[@]}" --target "$target/opt/camscribe" \
    "$work"/wheels/*.whl "$wheel"
cp -r "$repository/examples" "$target/opt/examples"

# Without /sys: it would describe this machine's processor, and the library that reads it crashes on that under qemu.
emulated() {
    env -i PATH=/usr/bin:/bin HOME=/tmp LC_ALL=C.UTF-8 PYTHONPATH=/opt/camscribe \
        proot -q qemu-aarch64-static -r "$target" -b /proc -b /dev -w /opt \
        /usr/bin/python3 -m camscribe.runtime.cli "$@"
}

for precision in float32 int8; do
    echo "== examples/ in $precision"
    options=(caption examples/ --json --precision "$precision")
    (cd "$repository" && "$work/host/bin/camscribe" "${options[@]}" >"$work/x86_64-$precision.jsonl")
    start=$(date +%s.%N)
    emulated "${options[@]}" >"$work/aarch64-$precision.jsonl" 2>"$work/aarch64-$precision.err"
    echo "$start $(date +%s.%N)" >"$work/aarch64-$precision.seconds"
done
echo "== camscribe doctor"
emulated doctor --json >"$work/doctor.json"

"$work/host/bin/python" "$repository/tests/arm64/record.py" "$work" "$record"
