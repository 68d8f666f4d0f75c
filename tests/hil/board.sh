#!/bin/bash
# An emulated ARM board: a Debian 12 root of the board's architecture under qemu-user, reached by a
# real sshd. Its network has nothing but a loopback of its own, where sshd listens; `ssh` gets there
# by a ProxyCommand. For what a board does, never for how fast it does it.
#
#   board.sh check         say what this machine lacks for it (exit 77), or nothing
#   board.sh make          install the missing Debian packages, then build the root (once)
#   board.sh start | stop | status
#   board.sh ssh CMD... | scp ARGS...
#   board.sh hold          start, print the path of the ssh configuration, stop when stdin closes
#   board.sh clean         stop, and remove the roots of this architecture
#
#   BOARD_ARCH    arm64 (default) or armhf
#   BOARD_NAME    several boards share one root under different names (default: the architecture)
#   BOARD_CPU     what qemu emulates: cortex-a53, -a72, -a76 (default: -a72), armhf cortex-a7, -a8
#                 (default: -a7)
#   BOARD_MEM     MiB; a cgroup limit (default: none)
#   BOARD_PIP     the wheels in the root, as pip takes them
#   BOARD_DIR     where roots and running boards are kept
#   BOARD_MIRROR  the Debian mirror (default: this machine's own)
#   BOARD_PYTHON  a Python, with pip where wheels are to be fetched (default: python3)
#
# Runs as root, on Debian 12. The board's root is never written to after it is built: each start
# lays a fresh overlay over it, so every board begins pristine.
# Exit codes: 77 this machine cannot have such a board, 1 it failed.
# shellcheck disable=SC2016 # what stands in single quotes is for apt and for another shell
set -euo pipefail

say() { echo "board ${name:-}: $*" >&2; }
fail() { say "$*"; exit 1; }
cannot() { say "$*"; exit 77; }
[ "$(uname -s)" = Linux ] || cannot "needs Linux, this is $(uname -s)"

arch=${BOARD_ARCH:-arm64}
case $arch in
  arm64)
    cpu=cortex-a72 qemu=aarch64 multiarch=aarch64-linux-gnu
    model="Raspberry Pi 4 Model B Rev 1.4"
    apt_extra=()
    wheels="numpy==1.26.4 onnxruntime==1.32.0 click==8.5.1 tokenizers==0.23.3"
    platforms=(manylinux_2_34_aarch64 manylinux_2_28_aarch64 manylinux_2_27_aarch64
               manylinux_2_17_aarch64 manylinux2014_aarch64 any)
    ;;
  armhf) # nobody publishes numpy or onnxruntime wheels for it: numpy is the system's own
    cpu=cortex-a7 qemu=arm multiarch=arm-linux-gnueabihf
    model="Raspberry Pi 2 Model B Rev 1.1"
    apt_extra=(python3-numpy)
    wheels="tflite-runtime==2.14.0 click==8.5.1"
    platforms=(manylinux_2_34_armv7l manylinux_2_31_armv7l manylinux2014_armv7l any)
    ;;
  *) echo "BOARD_ARCH must be arm64 or armhf, not '$arch'" >&2; exit 2 ;;
esac
name=${BOARD_NAME:-$arch} cpu=${BOARD_CPU:-$cpu} mem=${BOARD_MEM:-0} port=22
# What /proc/cpuinfo says of it; engines choose their kernels by that.
case $arch:$cpu in
  arm64:cortex-a53) cpu_part=0xd03 cpu_features="fp asimd evtstrm crc32 cpuid" ;;
  arm64:cortex-a72) cpu_part=0xd08 cpu_features="fp asimd evtstrm crc32 cpuid" ;;
  arm64:cortex-a76)
    cpu_part=0xd0b
    cpu_features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm"
    cpu_features+=" lrcpc dcpop asimddp" ;;
  armhf:cortex-a7)
    cpu_part=0xc07
    cpu_features="half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
    ;;
  armhf:cortex-a8) # no divisions and no fused multiplication in hardware
    cpu_part=0xc08 cpu_features="half thumb fastmult vfp edsp thumbee neon vfpv3 tls vfpd32" ;;
  *) echo "BOARD_CPU: no $cpu among those of $arch" >&2; exit 2 ;;
esac
wheels=${BOARD_PIP:-$wheels}
base=${BOARD_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/edgedistill/boards}
run=$base/run-$name
apt_packages=(python3 libstdc++6 libgomp1 libatomic1 openssh-server openssh-sftp-server
  openssh-client dash bash coreutils login grep sed procps base-passwd passwd base-files libc-bin
  tar gzip findutils hostname util-linux "${apt_extra[@]}")

# --- what this machine needs ---------------------------------------------------------------------

missing_packages() { # one Debian package a line
  command -v "qemu-$qemu-static" >/dev/null || echo qemu-user-static
  command -v mmdebstrap >/dev/null || echo mmdebstrap
  command -v ssh >/dev/null || echo openssh-client
  command -v pkill >/dev/null || echo procps
  command -v unshare >/dev/null || echo util-linux
  command -v ip >/dev/null || echo iproute2
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
}

memory_controller() { # prints v1 or v2
  if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then echo v1
  elif grep -qsw memory /sys/fs/cgroup/cgroup.controllers; then echo v2
  else return 1; fi
}

check_machine() {
  [ "$(id -u)" = 0 ] || cannot "needs root (chroot, mount and binfmt_misc)"
  command -v apt-get >/dev/null || cannot "needs a Debian-like system: there is no apt-get"
  [ "$mem" = 0 ] || memory_controller >/dev/null ||
    cannot "BOARD_MEM needs a memory cgroup: there is none"
}

check() {
  check_machine
  local missing; missing=$(missing_packages | paste -sd' ')
  [ -z "$missing" ] || cannot "not installed: $missing ('board.sh make' installs them)"
}

install_packages() {
  local missing; mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  apt-get -qq -o DPkg::Lock::Timeout=300 update >/dev/null || cannot "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y \
    --no-install-recommends "${missing[@]}" >/dev/null || cannot "cannot install ${missing[*]}"
}

register_qemu() {
  # Debian's own registration has flag F: the kernel opens qemu now, the root needs no copy of it.
  local binfmt=/proc/sys/fs/binfmt_misc
  mountpoint -q $binfmt || mount -t binfmt_misc binfmt_misc $binfmt
  [ -e $binfmt/qemu-$qemu ] || cat /usr/lib/binfmt.d/qemu-$qemu.conf > $binfmt/register
}

# --- the root ------------------------------------------------------------------------------------

mirror() {
  [ -z "${BOARD_MIRROR:-}" ] || { echo "$BOARD_MIRROR"; return; }
  apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' |
    grep -m1 -E '^https?://.*/debian/?$' ||
    cannot "no Debian mirror among this machine's apt sources: set BOARD_MIRROR"
}

unpack_debian() { # ROOT
  # Only unpacked: maintainer scripts under emulation would take minutes instead of seconds.
  local source; source=$(mirror)
  source="deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $source bookworm main"
  say "unpacking Debian ($arch)"
  # A mirror may be a snapshot of an earlier day, whose index counts as expired.
  mmdebstrap --quiet --arch="$arch" --variant=extract --mode=root --skip=check/qemu \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    --include="$(IFS=,; echo "${apt_packages[*]}")" bookworm "$1" "$source" ||
    cannot "cannot fetch Debian packages for $arch"
  # Afterwards, because mmdebstrap's own path filter makes it three times slower.
  rm -rf "$1"/usr/share/{doc,man,locale,i18n,info,lintian,perl}
  rm -rf "$1/usr/lib/$multiarch"/{perl,perl-base}
}

configure() { # ROOT: by hand, what maintainer scripts would have done
  local root=$1 lib=$1/usr/lib/$multiarch
  sed 's/:\*:/:x:/' "$root/usr/share/base-passwd/passwd.master" > "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  echo 'sshd:x:101:65534::/run/sshd:/usr/sbin/nologin' >> "$root/etc/passwd"
  echo 'board:x:1000:1000::/home/board:/bin/bash' >> "$root/etc/passwd"
  echo 'board:x:1000:' >> "$root/etc/group"
  mkdir -p "$root"/{proc,sys,dev,run/sshd,var/log,home/board,etc/ssh,tmp}
  chmod 1777 "$root/tmp"
  chown 1000:1000 "$root/home/board"
  : > "$root/var/log/lastlog"
  : > "$root/var/log/wtmp"
  echo "edge-$arch" > "$root/etc/hostname"
  echo "127.0.0.1 localhost edge-$arch" > "$root/etc/hosts"
  if [ -d "$lib/blas" ]; then ln -sf blas/libblas.so.3 "$lib/libblas.so.3"; fi
  if [ -d "$lib/lapack" ]; then ln -sf lapack/liblapack.so.3 "$lib/liblapack.so.3"; fi
  # Whoever measures here must be able to tell: see "standing" in the runtime's bench.
  echo "qemu-user" > "$root/etc/edgedistill-emulated"
}

describe_hardware() { # ROOT: never the host's own /sys, whose x86 topology crashes onnxruntime
  local sys=$1/sys i
  local cpus=$sys/devices/system/cpu
  mkdir -p "$cpus" "$sys/firmware/devicetree/base" "$sys/class/thermal/thermal_zone0"
  printf '%s\0' "$model" > "$sys/firmware/devicetree/base/model"
  echo 48000 > "$sys/class/thermal/thermal_zone0/temp"
  for i in possible present online; do echo 0-3 > "$cpus/$i"; done
  for i in 0 1 2 3; do
    mkdir -p "$cpus/cpu$i/cpufreq"
    echo 1500000 > "$cpus/cpu$i/cpufreq/cpuinfo_max_freq"
    echo 1500000 > "$cpus/cpu$i/cpufreq/scaling_cur_freq"
    echo ondemand > "$cpus/cpu$i/cpufreq/scaling_governor"
  done
}

cpuinfo() {
  local i architecture=8
  [ "$arch" = arm64 ] || architecture=7
  for i in 0 1 2 3; do
    printf '%s\t: %s\n' processor $i BogoMIPS 108.00 Features "$cpu_features" \
      'CPU implementer' 0x41 'CPU architecture' $architecture \
      'CPU variant' 0x0 'CPU part' $cpu_part 'CPU revision' 3
    echo
  done
  printf 'Hardware\t: BCM2835\nModel\t\t: %s\n' "$model"
}

install_wheels() { # ROOT
  local python=${BOARD_PYTHON:-python3} site=$1/usr/local/lib/python3.11/dist-packages tags=() tag
  for tag in "${platforms[@]}"; do tags+=(--platform "$tag"); done
  mkdir -p "$site"
  say "installing $wheels"
  # shellcheck disable=SC2086 # a list of words
  "$python" -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps \
    --no-compile --target "$site" --only-binary=:all: --python-version 3.11 --implementation cp \
    --abi cp311 --abi abi3 --abi none "${tags[@]}" $wheels >&2 ||
    cannot "cannot fetch the wheels: $wheels"
}

compile_python() { # ROOT: the board's user cannot write there, so every import would compile anew
  local folders=(/usr/lib/python3.11 /usr/local/lib/python3.11/dist-packages)
  [ ! -d "$1/usr/lib/python3/dist-packages" ] || folders+=(/usr/lib/python3/dist-packages)
  if python3.11 -c '' 2>/dev/null; then # same bytecode; 2 s instead of 15
    python3.11 -m compileall -q -j0 -s "$1" -p / "${folders[@]/#/$1}" >&2
  else
    chroot "$1" python3 -m compileall -q "${folders[@]}" >&2
  fi || say "some Python files do not compile"
}

# A root is named by all that it is made from, this script's functions included: whoever built the
# same one already, it is used as it is, and boards that run from another one are left in peace.
root_digest() {
  { echo "$arch" "$wheels" "${apt_packages[@]}" "$model"
    declare -f unpack_debian configure describe_hardware install_wheels compile_python; } |
    sha256sum | cut -c1-12
}
root=$base/root-$arch-$(root_digest)

make_root() {
  mkdir -p "$base"
  exec 8>"$base/lock-$arch"
  flock 8 # somebody else may be building this very root
  [ -d "$root" ] && return
  local new=$root.new
  rm -rf --one-file-system "$new"
  unpack_debian "$new"
  configure "$new"
  describe_hardware "$new"
  install_wheels "$new"
  compile_python "$new"
  chroot "$new" /usr/bin/python3 -c 'import numpy, click' || fail "the board's Python does not work"
  mv "$new" "$root"
  exec 8>&-
  say "built $root ($(du -sh "$root" | cut -f1))"
}

# --- one running board ---------------------------------------------------------------------------

alive() { # the board's process holds this lock; a pid alone could be a stranger's by now
  [ -e "$run/lock" ] && ! flock -n "$run/lock" true
}

write_run_files() {
  mkdir -p "$run/mnt"
  chmod 700 "$run"
  ssh-keygen -q -t ed25519 -N '' -C board -f "$run/id"
  ssh-keygen -q -t ed25519 -N '' -C host -f "$run/hostkey"
  echo "$name $(cut -d' ' -f1,2 "$run/hostkey.pub")" > "$run/known_hosts"
  cpuinfo > "$run/cpuinfo"
  cat > "$run/proxy.py" <<PROXY # a socket stays in the network where it was made: it is passed on
import socket
made = socket.create_connection(("127.0.0.1", $port))
socket.send_fds(socket.socket(fileno=1), [b"\0"], [made.fileno()])
PROXY
  cat > "$run/ssh_config" <<CONFIG
Host $name
  ProxyCommand nsenter "--net=/proc/\$(cat "$run/pid")/ns/net" ${BOARD_PYTHON:-python3} "$run/proxy.py"
  ProxyUseFdpass yes
  HostKeyAlias $name
  User board
  IdentityFile "$run/id"
  IdentitiesOnly yes
  UserKnownHostsFile "$run/known_hosts"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 20
CONFIG
  cat > "$run/sshd_config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
HostKey /etc/ssh/hostkey
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowUsers board root
UseDNS no
PidFile none
PrintMotd no
MaxStartups 50
Subsystem sftp /usr/lib/openssh/sftp-server
SetEnv QEMU_CPU=$cpu LANG=C.UTF-8
CONFIG
  local mib=$mem
  [ "$mib" != 0 ] || mib=1024
  printf '%-15s %8d kB\n' MemTotal: $((mib * 1024)) MemFree: $((mib * 700)) \
    MemAvailable: $((mib * 800)) Buffers: 0 Cached: 0 SwapTotal: 0 SwapFree: 0 > "$run/meminfo"
}

make_cgroup() { # prints its path; nothing where no limit is asked for
  [ "$mem" != 0 ] || return 0
  local group top=/sys/fs/cgroup
  if [ "$(memory_controller)" = v1 ]; then
    group=$top/memory/edgedistill-$name
    mkdir -p "$group"
    echo "${mem}M" > "$group/memory.limit_in_bytes"
    echo 0 > "$group/memory.swappiness"
  else
    group=$top/edgedistill-$name
    grep -qw memory $top/cgroup.subtree_control || echo +memory > $top/cgroup.subtree_control
    mkdir -p "$group"
    echo "${mem}M" > "$group/memory.max"
    echo 0 > "$group/memory.swap.max" 2>/dev/null || : # a kernel without swap accounting
  fi
  echo "$group"
}

start() {
  if alive; then fail "already running"; fi
  [ -d "$root" ] || fail "there is no root yet: run 'board.sh make'"
  check_machine
  register_qemu
  rm -rf --one-file-system "$run"
  write_run_files
  local group; group=$(make_cgroup)
  exec 9>"$run/lock"
  flock 9
  setsid bash -c '[ -z "$1" ] || echo $$ > "$1/cgroup.procs"
    exec unshare --mount --pid --uts --ipc --net --fork --kill-child "$2" __inner' \
    bash "$group" "$(readlink -f "$0")" </dev/null >"$run/log" 2>&1 &
  echo $! > "$run/pid"
  exec 9>&-
  local deadline=$((SECONDS + 60))
  until ssh -n -F "$run/ssh_config" "$name" true 2>/dev/null; do
    if ! alive || [ $SECONDS -ge $deadline ]; then
      tail -5 "$run/log" >&2
      stop
      fail "sshd did not come up"
    fi
    sleep 0.2
  done
  say "up ($cpu)"
}

lay_root() { # FOLDER: an overlay over the board's root, at FOLDER/new
  mkdir "$1"/{upper,work,new}
  mount -t overlay -o "lowerdir=$root,upperdir=$1/upper,workdir=$1/work" board "$1/new"
}

inner() { # pid 1 of the new namespaces: when it ends, every process and mount of the board ends
  local top=$run/mnt dev i
  mount --make-rprivate /
  ip link set lo up
  # What a board writes is on a disk where the file system allows it: in a tmpfs it would count as
  # memory that the limit cannot take back.
  lay_root "$top" 2>/dev/null || { mount -t tmpfs -o mode=755 board "$top" && lay_root "$top"; }
  top=$top/new dev=$top/dev

  mount -t proc proc "$top/proc"
  mount --bind "$run/cpuinfo" "$top/proc/cpuinfo"
  mount --bind "$run/meminfo" "$top/proc/meminfo"

  install -d -m 1777 "$top/run/lock"
  mount -t tmpfs -o mode=755 dev "$dev"
  mknod -m 666 "$dev/null" c 1 3
  mknod -m 666 "$dev/zero" c 1 5
  mknod -m 666 "$dev/full" c 1 7
  mknod -m 666 "$dev/random" c 1 8
  mknod -m 666 "$dev/urandom" c 1 9
  mknod -m 666 "$dev/tty" c 5 0
  mkdir "$dev/pts" "$dev/shm"
  chmod 1777 "$dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dev/pts"
  ln -s pts/ptmx "$dev/ptmx"
  ln -s /proc/self/fd "$dev/fd"

  install -d -m 700 -o 1000 -g 1000 "$top/home/board/.ssh"
  install -m 600 -o 1000 -g 1000 "$run/id.pub" "$top/home/board/.ssh/authorized_keys"
  install -d -m 700 "$top/root/.ssh"
  install -m 600 "$run/id.pub" "$top/root/.ssh/authorized_keys"
  install -m 600 "$run/hostkey" "$top/etc/ssh/hostkey"
  install -m 644 "$run/sshd_config" "$top/etc/ssh/sshd_config"
  hostname "edge-$name"
  # env -i: variables of the host, such as OPENBLAS_CORETYPE, must not reach the board.
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin QEMU_CPU="$cpu" \
    chroot "$top" /usr/sbin/sshd -D -e
}

stop() {
  if alive; then
    pkill -KILL -P "$(cat "$run/pid")" || : # pid 1 of the board; unshare, its parent, follows
    flock -w 10 "$run/lock" true || fail "does not stop"
    say "stopped"
  fi
  rmdir /sys/fs/cgroup/{memory/,}"edgedistill-$name" 2>/dev/null || :
  rm -rf --one-file-system "$run"
}

hold() { # whoever started this, and however it ends, its end of the pipe closes
  start
  trap 'stop 2>/dev/null' EXIT # nobody may be left to read what it says
  echo "$run/ssh_config"
  cat >/dev/null
}

case ${1:-} in
  check) check ;;
  make) check_machine; install_packages; register_qemu; make_root ;;
  start) start ;;
  stop) stop ;;
  hold) hold ;;
  status) if alive; then echo running; else echo stopped; exit 1; fi ;;
  ssh) shift; exec ssh -F "$run/ssh_config" "$name" "$@" ;;
  scp) shift; exec scp -F "$run/ssh_config" "$@" ;;
  clean) stop; rm -rf --one-file-system "$base/root-$arch"-* ;;
  __inner) inner ;;
  *) sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
