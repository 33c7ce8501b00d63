#!/usr/bin/env bash
# Installs dnexport as a device does and runs it on emulated aarch64 Linux: 'make arm64', on Debian 12 or newer, as root.
#
# Debian's and Python's packages come from where this machine's own apt and pip get theirs.
#   CACHE     holds the root, the emulator and the bundles; engines/built/arm64 where it is not set
#   QEMU_CPU  the processor that is emulated; a Cortex-A76, as in a Raspberry Pi 5, where it is not set
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/../.."
if ((EUID != 0)); then
  echo "$0 mounts file systems and registers an emulator: run it as root" >&2
  exit 1
fi
# In a mount namespace of its own: what is mounted here goes when the script ends, however it ends.
[[ ${1:-} == --unshared ]] || exec unshare --mount "$0" --unshared

source /etc/os-release
bin=.venv/bin
cache=$(realpath --canonicalize-missing "${CACHE:-engines/built/arm64}")
root=$cache/root
targets=(onnxruntime:cpu openvino:cpu)
binfmt=/proc/sys/fs/binfmt_misc
entry=dnexport-arm64-$$
scratch=$(mktemp --directory)

clean_up() {
  [[ ! -e $binfmt/$entry ]] || echo -1 >"$binfmt/$entry"
  rm -rf "$scratch"
}
trap clean_up EXIT

main() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock --nonblock 9 || { echo "another run uses $cache" >&2; exit 1; }
  say "The root and the emulator"
  make_root
  register_emulator
  say "The device's packages"
  install_device
  say "The bundles, built on this machine"
  build_bundles
  say "On the device"
  run_device
}

say() { printf '\n%s\n' "$*" >&2; }

# The address that this machine's apt has its release from.
archive() {
  apt-get -qq update >&2
  apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
    awk -v release="$VERSION_CODENAME" '$2 == release && !found++ { print $1 }'
}

make_root() {
  [[ ! -d $root ]] || return 0
  local mirror
  mirror=$(archive)
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends mmdebstrap >/dev/null
  rm -rf "$root.new"
  mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3,libgomp1,libstdc++6 \
    "$VERSION_CODENAME" "$root.new" "$mirror"
  mkdir -p "$root.new"/{dev,proc,sys}
  mv "$root.new" "$root"
}

# Flag F: the kernel opens the emulator now, by its path outside of the root.
register_emulator() {
  local emulator magic mask
  emulator=$(find_emulator)
  # The header of an executable or a library, 64 bits, little-endian, of machine 0xb7.
  magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  mountpoint --quiet "$binfmt" || mount -t binfmt_misc binfmt_misc "$binfmt"
  printf ':%s:M::%s:%s:%s:F' "$entry" "$magic" "$mask" "$emulator" >"$binfmt/register"
}

# The installed emulator where it suits, else Debian's newest for this release, which is unpacked and not installed.
find_emulator() {
  local found unpacked=$cache/qemu/usr/bin/qemu-aarch64
  for found in /usr/bin/qemu-aarch64{,-static} "$unpacked"; do
    if suits "$found"; then
      echo "$found"
      return
    fi
  done
  unpack_emulator >&2
  echo "$unpacked"
}

# QEMU 7.2 crashes OpenVINO; an emulator that is linked to libraries does not find them in the root.
suits() {
  local major
  [[ -x $1 ]] || return 1
  major=$("$1" --version | sed -n 's/^qemu-aarch64 version \([0-9]*\).*/\1/p')
  ((${major:-0} >= 10)) && [[ $(ldd "$1" 2>&1) != *'=>'* ]]
}

# Of the backports where they have one, else of the release; this machine's own list of sources stays as it is.
unpack_emulator() {
  local mirror only
  mirror=$(archive)
  only=(-o Dir::Etc::SourceList="$scratch/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$scratch/lists"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
    "$mirror" "$VERSION_CODENAME" "$mirror" "$VERSION_CODENAME-backports" >"$scratch/sources.list"
  mkdir -p "$scratch/lists/partial"
  (cd "$scratch" && apt-get -qq "${only[@]}" update &&
    apt-get -qq "${only[@]}" --target-release "$VERSION_CODENAME-backports" download qemu-user)
  rm -rf "$cache/qemu"
  dpkg --extract "$scratch"/qemu-user_*.deb "$cache/qemu"
}

# Wheels of every manylinux up to the root's glibc: 2.36 in Debian 12.
install_device() {
  local python platforms
  python=$(readlink "$root/usr/bin/python3")
  read -ra platforms <<<"$(printf -- '--platform manylinux_2_%d_aarch64 ' {36..17}) --platform manylinux2014_aarch64"
  rm -rf "$root/site"
  "$bin/python" -m pip install --quiet --disable-pip-version-check --target "$root/site" "${platforms[@]}" \
    --python-version "${python#python}" --only-binary :all: --constraint constraints.txt . "${targets[@]%%:*}"
}

build_bundles() {
  local precision flags=(--data "$cache/pictures" --batch 1..1..4 --no-bench --quiet)
  local allowed=(bf16 f32 int8-saturating) # what the processor of this machine may execute instead
  "$bin/dnexport" train --data digits --arch densenet-bc-40-12 --output engines/built/digits.safetensors --resume
  rm -rf "$cache/pictures" "$root/device"
  held_out_digits "$cache/pictures"
  mkdir -p "$root/device/home"
  for precision in fp16 int8; do
    "$bin/dnexport" build "engines/digits-$precision.toml" "${flags[@]}" --output "$cache/$precision" \
      "${targets[@]/#/--target=}" "${allowed[@]/#/--allow-execution=}"
    cp -r "$cache/$precision" "$root/device/$precision"
  done
}

# Few of them: float16 takes an emulator ten seconds an image. 'dnexport build' tests on a fifth of a folder that has
# no parts.
held_out_digits() {
  "$bin/python" - "$1" <<'END'
import sys
from itertools import islice
from pathlib import Path

from PIL import Image

from dnexport.data.datasets import digits

test = digits().test
for index, (pixels, label) in enumerate(islice(zip(test.pictures, test.labels, strict=True), 25)):
    folder = Path(sys.argv[1], test.classes[label])
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{index}.png")
END
}

# Without a network, as telemetry of a runtime would find one.
run_device() {
  cp tests/arm64/device.py "$root/device/"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount --bind /sys "$root/sys"
  unshare --net env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/device/home PYTHONPATH=/site \
    OMP_WAIT_POLICY=passive QEMU_CPU="${QEMU_CPU:-cortex-a76}" \
    chroot "$root" /usr/bin/python3 /device/device.py "${targets[@]}"
}

main
