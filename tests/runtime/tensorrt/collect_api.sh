#!/usr/bin/env bash
# Records the names of real TensorRT modules in api.json, for test_api.py. No GPU is needed. Was run on x86-64 Linux with
# Python 3.10; needs gcc, nm, unzip, 2 GB of disk, and a package index.
#
#   collect_api.sh                     all versions below: 850 MB to download, nearly all of it TensorRT 8.6.0
#
# 8.6.0 is the whole wheel, with stand-ins for cuBLAS and cuDNN. From 10 on the wheels of TensorRT fetch their libraries
# elsewhere, but the Python module itself is a small wheel (tensorrt-cu12-bindings): its classes and enums are complete
# with stand-ins for the libraries, of which it needs nine functions. tensorrt-lean is whole.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON310:-python3.10}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" -q install 'numpy<2.3'

fetch() { # PACKAGE==VERSION: unpacks it into $work/VERSION/
    "$work/venv/bin/pip" -q download --no-deps --only-binary=:all: -d "$work/wheels" "$1"
    mkdir -p "$work/$2"
    unzip -q -o "$work"/wheels/*.whl -d "$work/$2"
    rm -r "$work/wheels"
}

collect() { # FOLDER LABEL
    LD_LIBRARY_PATH="$work/lib:$work/$1/tensorrt:$work/$1/tensorrt_lean_libs" PYTHONPATH="$work/$1" \
        "$work/venv/bin/python" "$here/collect_api.py" "$here/api.json" ${2:+"$2"}
}

mkdir "$work/lib"
fetch tensorrt==8.6.0 8.6
for lib in cublas:12 cublasLt:12 cudnn:8; do
    name=lib${lib%%:*}.so major=${lib##*:}
    nm -D "$work/8.6/tensorrt/libnvinfer_plugin.so.8" |
        sed -n "s/.* U \(.*\)@$name\.$major\$/void \1(void){__builtin_trap();}/p" >"$work/stub.c"
    printf '%s.%s { global: *; };\n' "$name" "$major" >"$work/stub.map"
    gcc -shared -fPIC -Wl,-soname,"$name.$major" -Wl,--version-script="$work/stub.map" -o "$work/lib/$name.$major" \
        "$work/stub.c"
done
collect 8.6 ""

for version in 10.0.1 10.3.0 10.11.0.33 10.12.0.36 10.16.1.11 11.0.0.114 11.4.0.106; do
    fetch "tensorrt-cu12-bindings==$version" "$version"
    major=${version%%.*}
    for name in nvinfer nvinfer_plugin nvonnxparser; do
        nm -D "$work/$version/tensorrt_bindings/tensorrt.so" |
            sed -n 's/.* U \([a-zA-Z]*_INTERNAL\|get[A-Za-z]*\(Registry\|Version\)\|initLibNvInferPlugins\)$/\1/p' |
            while read -r function; do
                [ "$name" != nvinfer ] || echo "void *$function(void) { return 0; }"
            done >"$work/stub.c"
        gcc -shared -fPIC -Wl,-soname,"lib$name.so.$major" -o "$work/lib/lib$name.so.$major" "$work/stub.c"
    done
    ln -s tensorrt_bindings "$work/$version/tensorrt"
    collect "$version" ""
done

fetch tensorrt-lean-cu12-libs==11.4.0.106 lean
fetch tensorrt-lean-cu12-bindings==11.4.0.106 lean
ln -s tensorrt_lean_bindings "$work/lean/tensorrt_lean"
collect lean lean-11.4.0.106
