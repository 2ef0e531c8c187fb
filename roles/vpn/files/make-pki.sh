#!/bin/sh
# Keys and certificates with easy-rsa, and a profile for each client; says "made" when it made something.
# usage: make-pki.sh FOLDER REMOTE PORT "CLIENT ..."
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
folder=$1 remote=$2 port=$3 clients=$4
umask 077
mkdir -p "$folder"
cd "$folder"
exec 9>.lock
flock 9
run_easyrsa() {
  env "PATH=$PATH:/usr/share/easy-rsa" "EASYRSA=$folder" "EASYRSA_PKI=$folder/pki" EASYRSA_BATCH=1 EASYRSA_SILENT=1 \
    EASYRSA_ALGO=ec EASYRSA_CURVE=prime256v1 EASYRSA_CA_EXPIRE=3650 EASYRSA_CERT_EXPIRE=1825 \
    ${ca_name:+"EASYRSA_REQ_CN=$ca_name"} easyrsa "$@" >easyrsa.log 2>&1 || { cat easyrsa.log >&2; exit 1; }
}
[ -d pki/private ] || { run_easyrsa init-pki; echo 'made a PKI'; }
[ -e pki/ca.crt ] || { ca_name='unikernels.xen VPN' run_easyrsa build-ca nopass; echo 'made a CA'; }
[ -e pki/issued/server.crt ] || { rm -f pki/reqs/server.req pki/private/server.key; run_easyrsa build-server-full server nopass; echo 'made the server key'; }
for client in $clients; do
  [ -e "pki/issued/$client.crt" ] || {
    rm -f "pki/reqs/$client.req" "pki/private/$client.key"
    run_easyrsa build-client-full "$client" nopass
    echo "made the key of $client"
  }
done
[ -e tls-crypt.key ] || { openvpn --genkey secret .tls-crypt.new >/dev/null; mv .tls-crypt.new tls-crypt.key; echo 'made the tls-crypt key'; }
pem() { openssl x509 -in "$1"; }
[ -e server.crt ] || { pem pki/issued/server.crt >.server.new; mv .server.new server.crt; }
for client in $clients; do
  {
    printf 'client\ndev tun\nproto tcp-client\nremote %s %s\nnobind\npersist-key\n' "$remote" "$port"
    printf 'remote-cert-tls server\nverify-x509-name server name\ncipher AES-256-GCM\ndata-ciphers AES-256-GCM:CHACHA20-POLY1305\nverb 3\n'
    printf '<ca>\n%s\n</ca>\n' "$(cat pki/ca.crt)"
    printf '<cert>\n%s\n</cert>\n' "$(pem "pki/issued/$client.crt")"
    printf '<key>\n%s\n</key>\n' "$(cat "pki/private/$client.key")"
    printf '<tls-crypt>\n%s\n</tls-crypt>\n' "$(cat tls-crypt.key)"
  } >".$client.new"
  if cmp -s ".$client.new" "$client.ovpn"; then rm ".$client.new"; else mv ".$client.new" "$client.ovpn"; echo "made $client.ovpn"; fi
done
