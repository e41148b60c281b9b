#!/bin/sh
# Lays out a folder from which a program runs with nothing else: an image needs no distribution and no shell.
#
#   docker/rootfs.sh FOLDER PROGRAM...
#
# Takes the programs, the libraries they load, SASL's mechanisms (Kerberos) and the certificates of public authorities.
set -eu

folder=$1
shift
mkdir -p "$folder/usr/bin" "$folder/etc/ssl/certs" "$folder/tmp"
chmod 1777 "$folder/tmp"
cp "$@" "$folder/usr/bin/"
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
printf 'root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n' >"$folder/etc/passwd"

# SASL opens its mechanisms by name, so no program lists them.
mechanisms=$(find /usr/lib -path '*/sasl2/*.so')
{
    [ -z "$mechanisms" ] || echo "$mechanisms"
    # shellcheck disable=SC2086  # one word a file
    ldd "$@" $mechanisms | grep -o '/[^ :]*\.so[^ :]*'
} | sort -u | while read -r library; do
    mkdir -p "$folder$(dirname "$library")"
    cp -L "$library" "$folder$library"
done
