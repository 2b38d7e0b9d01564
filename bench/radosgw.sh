#!/bin/bash
# Ceph's S3 server on this machine, in memory: a monitor, one OSD and radosgw at 127.0.0.1:7480, with the user that
# bench/object_storage.py has. They end with this script.
#
#     apt-get install radosgw ceph-mon ceph-osd        # or: apt-get download them and what they need, dpkg -x each into $ROOT
#     [ROOT=/where/they/are] bash bench/radosgw.sh FOLDER
set -e
ROOT=${ROOT:-} D=${1:?a folder for its files, which is emptied}
L=$ROOT/usr/lib/x86_64-linux-gnu
[ -n "$ROOT" ] && export LD_LIBRARY_PATH=$L:$L/ceph:$ROOT/lib/x86_64-linux-gnu
export PATH=$ROOT/usr/bin:$PATH CEPH_CONF=$D/ceph.conf
rm -rf "$D" && mkdir -p "$D"/mon "$D"/osd "$D"/rgw "$D"/log
FS=$(cat /proc/sys/kernel/random/uuid)
cat > "$CEPH_CONF" <<C
[global]
fsid = $FS
mon host = v1:127.0.0.1:6789
public addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data = $D/mon
osd data = $D/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd class dir = $L/rados-classes
osd class load list = *
osd class default list = *
erasure code dir = $L/ceph/erasure-code
plugin dir = $L/ceph
keyring = $D/keyring
log file = $D/log/\$name.log
admin socket = $D/\$name.asok
pid file = $D/\$name.pid
run dir = $D
rgw data = $D/rgw
rgw frontends = beast endpoint=127.0.0.1:7480
C
ceph-authtool --create-keyring "$D/keyring" --gen-key -n mon. --cap mon 'allow *' > "$D/log/out"
ceph-authtool "$D/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' >> "$D/log/out"
monmaptool --create --fsid "$FS" --addv a "[v1:127.0.0.1:6789]" "$D/monmap" >> "$D/log/out"
ceph-mon --mkfs -i a --monmap "$D/monmap" --keyring "$D/keyring"
trap 'kill $(jobs -p)' EXIT
ceph-mon -i a -f > "$D/log/mon" 2>&1 &
sleep 3
U=$(cat /proc/sys/kernel/random/uuid)
PYTHONPATH=$ROOT/usr/lib/python3/dist-packages /usr/bin/python3 "$ROOT/usr/bin/ceph" osd new "$U" >> "$D/log/out"
ceph-osd -i 0 --mkfs --osd-uuid "$U" >> "$D/log/out" 2>&1
for _ in 1 2 3 4 5; do  # one that asks before it has the monitor's map is refused, "wrong fsid", and ends
    ceph-osd -i 0 -f >> "$D/log/osd" 2>&1 &
    sleep 4
    kill -0 $! 2> /dev/null && break
done
kill -0 $! 2> /dev/null || { cat "$D/log/osd" >&2; exit 1; }
radosgw -n client.admin -f > "$D/log/rgw" 2>&1 &
until radosgw-admin -n client.admin user create --uid=rayllm --display-name=rayllm --access-key=rayllm \
    --secret-key=rayllm-secret >> "$D/log/out" 2>&1; do sleep 1; done
echo "S3 at 127.0.0.1:7480"
wait
