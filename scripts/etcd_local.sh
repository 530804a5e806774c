#!/usr/bin/env bash
# Run an etcd cluster on loopback, for development and tests: see `usage` below.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/etcd_local.sh FOLDER [MEMBERS]
  Starts MEMBERS (default: 3) members of etcd on free ports of 127.0.0.1, whose data lies in FOLDER, and prints their
  endpoints, with commas between, when they answer. They end with SIGINT or SIGTERM, or with the process that has
  started this. A folder that holds members already has these started again, on their ports.

  FOLDER/m1/pid    process of the first member; the others are m2, m3, ...
  FOLDER/m1/start  becomes it again, after somebody has killed it
  FOLDER/m1/log    what it says

environment variables
  ETCD         the program (default: etcd)
  ELECTION_MS  how long a member waits for its leader before it stands for election (default: 200)
TEXT
}

die() {
    printf 'etcd_local: %s\n' "$*" >&2
    exit 1
}

free_ports() { # COUNT
    python3 - "$1" <<'PY'
import socket
import sys

held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in held))
PY
}

# A member's command is kept as a program, so that whoever has killed it can bring it back.
make_member() { # NUMBER CLIENT_PORT PEER_PORT CLUSTER
    local home=$folder/m$1 client=http://127.0.0.1:$2 peer=http://127.0.0.1:$3
    mkdir -p "$home"
    cat >"$home/start" <<TEXT
#!/bin/sh
echo \$\$ >'$home/pid'
exec '$program' --name m$1 --data-dir '$home/data' --log-level error \\
    --initial-cluster $4 --initial-cluster-state new \\
    --listen-client-urls $client --advertise-client-urls $client \\
    --listen-peer-urls $peer --initial-advertise-peer-urls $peer \\
    --heartbeat-interval $((election > 10 ? election / 10 : 1)) --election-timeout $election \\
    >>'$home/log' 2>&1 </dev/null
TEXT
    chmod +x "$home/start"
    echo "$2" >"$home/port"
}

make_members() { # COUNT
    local ports cluster='' number
    read -ra ports <<<"$(free_ports $((2 * $1)))"
    for ((number = 1; number <= $1; number++)); do
        cluster+=${cluster:+,}m$number=http://127.0.0.1:${ports[2 * number - 1]}
    done
    for ((number = 1; number <= $1; number++)); do
        make_member "$number" "${ports[2 * number - 2]}" "${ports[2 * number - 1]}" "$cluster"
    done
}

is_healthy() { # PORT: whether this member answers, and has a majority
    local answer
    { exec 9<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'GET /health HTTP/1.0\r\n\r\n' >&9
    answer=$(timeout 5 cat <&9) || true
    exec 9>&-
    [[ $answer == *'"health":"true"'* ]]
}

# Members are killed: what they have acknowledged is on their disks.
stop() {
    local file
    trap - EXIT
    for file in "$folder"/m*/pid; do
        [[ -e $file ]] || continue
        kill -KILL "$(<"$file")" 2>/dev/null || true
        rm -f "$file"
    done
}

case ${1:-} in
-h | --help | help)
    usage
    exit
    ;;
'')
    usage >&2
    exit 2
    ;;
esac
program=$(command -v "${ETCD:-etcd}") || die "there is no program '${ETCD:-etcd}'; install it (Debian: etcd-server), or set ETCD"
election=${ELECTION_MS:-200}
members=${2:-3}
[[ $members =~ ^[1-9]$ ]] || die "MEMBERS is '$members'; give 1 to 9"
mkdir -p "$1"
folder=$(cd "$1" && pwd)
parent=$PPID

[[ -e $folder/m1/start ]] || make_members "$members"
trap stop EXIT
trap 'exit 0' INT TERM
for start in "$folder"/m*/start; do
    "$start" &
    disown # who kills it need not be told
done

endpoints=''
for home in "$folder"/m*/; do
    port=$(<"$home/port")
    for ((tries = 0; ; tries++)); do
        if is_healthy "$port"; then break; fi
        ((tries < 5)) || kill -0 "$(<"$home/pid")" 2>/dev/null || die "a member has ended; look at ${home}log"
        ((tries < 600)) || die "a member does not answer; look at ${home}log"
        sleep 0.1
    done
    endpoints+=${endpoints:+,}127.0.0.1:$port
done
echo "$endpoints"

while kill -0 "$parent" 2>/dev/null; do
    sleep 1 &
    wait $! || true # a signal ends this at once
done
