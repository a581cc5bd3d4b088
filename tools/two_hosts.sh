# Two hosts on one machine, to be sourced by tests and measurements: two network namespaces with addresses and host
# names of their own, joined by a veth pair, and an mpirun whose launch agent enters the other one. Needs root.
#
#     two_hosts_up RANKS [BTL]    RANKS on each host; BTL: what Open MPI carries data with, "tcp,self"
#     link_rate MBIT              limits the link, on both sides (tc, tbf)
#     link_bytes                  what has gone over it, both ways
#     two_hosts_pids              the processes on both hosts
#
# two_hosts_up sets a and b (the hosts' names; their devices are called the same), net (the hosts are $net.1 and
# $net.2), work (a directory that goes with the script) and launch (the words of mpirun, to be run by "$work/on" $a).
# The process ends with status 77 where something that this takes is missing.
skip() {
    echo "skipped: $1"
    exit 77
}

two_hosts_pids() {
    ip netns pids "$a" 2>/dev/null
    ip netns pids "$b" 2>/dev/null
}

two_hosts_down() {
    local space pid
    for pid in $(two_hosts_pids); do kill -9 "$pid" 2>/dev/null; done
    for space in $a $b; do ip netns del "$space" 2>/dev/null; done
    rm -rf -- "$work"
}

two_hosts_up() {
    local ranks=$1 btl=${2:-tcp,self} space number=1
    command -v mpirun >/dev/null && command -v ip >/dev/null && command -v unshare >/dev/null || skip "no mpirun, ip or unshare"
    a=tra$$ b=trb$$ net=10.213.$(($$ % 250))
    ip netns add $a 2>/dev/null || skip "network namespaces need root"
    work=$(mktemp -d) || exit 1
    trap two_hosts_down EXIT
    trap 'exit 1' INT TERM
    { ip netns add $b && ip link add $a type veth peer name $b && ip link set $a netns $a && ip link set $b netns $b; } ||
        skip "no veth pair"
    for space in $a $b; do
        ip -n $space addr add $net.$number/24 dev $space
        ip -n $space link set $space up
        ip -n $space link set lo up
        number=2
    done
    cat >"$work/on" <<'ON'
#!/bin/sh
# on HOST COMMAND...: in its namespace, under its name
host=$1
shift
exec ip netns exec "$host" unshare --uts sh -c 'hostname "$0"; exec "$@"' "$host" "$@"
ON
    # What mpirun starts in the place of ssh.
    cat >"$work/agent" <<AGENT
#!/bin/sh
# agent [-x] ADDRESS COMMAND...: the words after the address are one line for a shell
[ "\$1" = -x ] && shift
shift
exec "$work/on" $b sh -c "\$*"
AGENT
    chmod +x "$work/on" "$work/agent"
    export OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
    if mpirun --version 2>&1 | grep -q -E 'Open MPI|open-mpi|OpenRTE'; then
        launch=(mpirun --mca plm_rsh_agent "$work/agent" --mca plm rsh --mca btl "$btl" --mca pml ob1 --bind-to none
            --mca btl_tcp_if_include $net.0/24 --mca oob_tcp_if_include $net.0/24
            --host "$net.1:$ranks,$net.2:$ranks" -n $((2 * ranks)))
    else
        launch=(mpirun -launcher ssh -launcher-exec "$work/agent" -iface $a -hosts "$net.1,$net.2" -ppn "$ranks"
            -n $((2 * ranks)))
    fi
}

link_rate() {
    local space
    for space in $a $b; do
        tc -n "$space" qdisc replace dev "$space" root tbf rate "$1mbit" burst 256kb latency 50ms || skip "no tc with tbf"
    done
}

link_bytes() {
    ip -n "$a" -s link show dev "$a" | awk '/RX:|TX:/ { getline; sum += $1 } END { printf "%.0f\n", sum }'
}
