# shellcheck shell=bash
# Sourced by run.sh and test.sh: makes the Python environment, once, and leaves PYTHON set to its interpreter.
#
#   make_environment cpu|gpu|newest [LOCK ...]    the base set and, on top, further lock files
#   add_package FOLDER                            to an environment, the package of this checkout, and its command
#
# Every way in which a machine can be unfit ends in one sentence that says what to do.

TORCH_CPU=2.13.0+cpu   # for cpu and newest: both of their vLLMs are built for it
UV=0.13.9

fail() { printf '%s\n' "$*" >&2; exit 1; }

has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || [ -e /dev/nvidiactl ] || command -v nvidia-smi >/dev/null 2>&1; }

find_python() {  # find_python KIND
  local candidate version found="" takes="3.10 3.11 3.12" words="Python 3.10, 3.11 or 3.12"
  [ "$1" != newest ] || { takes="3.11 3.12"; words="For the newest vLLM, Python 3.11 or 3.12"; }
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case " $takes " in
      *" $version "*) printf '%s' "$candidate"; return ;;
      *) found="$found $candidate is $version;" ;;
    esac
  done
  fail "$words is needed, but${found:- there is no python3}${found:+ nothing else was found}. Install one (Debian and Ubuntu: apt-get install python3 python3-venv), or name it: PYTHON=/path/to/python3.11 $0"
}

need_disk() {  # need_disk GIB
  local free
  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge "$1" ] || fail "The environment needs $1 GiB of free disk, but $(pwd) has $free GiB: free some space, or clone to another disk."
}

make_environment() {
  local kind=$1 folder=.venv.$1 stamp python began=$SECONDS
  shift
  local locks=("requirements/$kind.txt" "$@")
  stamp=$(cat "${locks[@]}" scripts/environment.sh | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$folder/.installed.$#" 2>/dev/null)" = "$stamp" ]; then
    PYTHON=$folder/bin/python
    own_package "$folder"
    return
  fi
  python=$(find_python "$kind") || exit 1
  case $kind in gpu) need_disk 20 ;; *) need_disk 6 ;; esac
  echo "Making the $kind environment in $folder with $("$python" --version) (once; a few minutes) ..."
  if [ ! -x "$folder/bin/pip" ]; then
    rm -rf "$folder"
    "$python" -m venv "$folder" >/dev/null 2>&1 \
      || fail "$python cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"
  fi
  "$folder/bin/pip" install --quiet --disable-pip-version-check "uv==$UV" \
    || fail "pip could not install uv $UV: check the network and pip's configuration (pip config list)."
  pip_configuration "$folder"
  [ "$kind" = gpu ] || install_cpu_torch "$folder"
  for lock in "${locks[@]}"; do
    # Where Python may not keep its bytecode (containers often say so), each process would compile all that it imports.
    VIRTUAL_ENV=$folder "$folder/bin/uv" pip install --quiet --no-deps --require-hashes \
      ${PYTHONDONTWRITEBYTECODE:+--compile-bytecode} -r "$lock" \
      || fail "Installing $lock failed (see above). Run the same command again once the cause is mended; what is there is kept."
  done
  VIRTUAL_ENV=$folder "$folder/bin/uv" pip uninstall --quiet -r requirements/left_out.txt  # that earlier locks brought
  echo "$stamp" >"$folder/.installed.$#"
  PYTHON=$folder/bin/python
  own_package "$folder"
  echo "The environment is ready ($((SECONDS - began)) s)."
}

# Each time, and not with the stamp: an environment made before gets it too, and one whose checkout was moved. One that
# is a link belongs to another checkout, or to an image, which has called add_package.
own_package() { if [ ! -L "$1" ]; then add_package "$1"; fi; }

# The package, from any folder, and its command. By a link and not by an editable install, which builds, and writes into
# the checkout. The link has a folder of its own: with the checkout in sys.path, its util/ and bench/ would hide those of
# a user that have no __init__.py. It lies outside site-packages, where pip would write through it.
add_package() {
  local root folder site link
  root=$(pwd -P)
  [ -d "$root/rayllm_batch" ] || return 0   # an image's environment is made before the checkout is there
  folder=$(cd "$1" && pwd -P)
  link=$folder/checkout/rayllm_batch
  if [ "$(readlink "$link")" != "$root/rayllm_batch" ]; then
    mkdir -p "$folder/checkout"
    ln -sfn "$root/rayllm_batch" "$link"
  fi
  for site in "$folder"/lib/python3*/site-packages; do
    write_once "$site/rayllm_batch_checkout.pth" ../../../checkout   # from where the .pth lies
  done
  # For sh and for Python, as pip writes it: an interpreter's path may have spaces, or be longer than #! takes.
  write_once "$folder/bin/rayllm-batch" "#!/bin/sh
'''exec' \"$folder/bin/python\" \"\$0\" \"\$@\"
' '''
import sys
from rayllm_batch.cli import main
sys.exit(main())"
  [ -x "$folder/bin/rayllm-batch" ] || chmod +x "$folder/bin/rayllm-batch"
}

write_once() {  # write_once FILE TEXT
  [ "$(cat "$1" 2>/dev/null)" = "$2" ] || printf '%s\n' "$2" >"$1"
}

# uv reads neither pip's files nor its variables: hand over the index that pip would use.
pip_configuration() {
  local index
  index=$("$1/bin/pip" config get global.index-url 2>/dev/null || true)
  index=${PIP_INDEX_URL:-$index}
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
}

# torch for CPU: PyPI has only CUDA builds (gigabytes). First from wherever pip is configured, else from PyTorch's own
# CPU index, which uv knows by name.
install_cpu_torch() {
  "$1/bin/python" -c "import torch, sys; sys.exit(torch.__version__ != '$TORCH_CPU')" 2>/dev/null && return
  "$1/bin/pip" install --quiet --disable-pip-version-check --no-deps "torch==$TORCH_CPU" 2>/dev/null && return
  VIRTUAL_ENV=$1 "$1/bin/uv" pip install --quiet --no-deps --torch-backend cpu "torch==${TORCH_CPU%+cpu}" \
    || fail "torch $TORCH_CPU is neither where pip is configured to look nor could PyTorch's CPU index be reached: check the network, or put its wheel where pip finds it (PIP_FIND_LINKS)."
}
