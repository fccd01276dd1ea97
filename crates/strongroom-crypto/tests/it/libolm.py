"""libolm at the end of a pipe: one JSON array a line in, one JSON value a line out."""

import json
import sys

import olm
from _libolm import ffi, lib


def decryption(private):
    decryption = olm.pk.PkDecryption()
    public = ffi.new("char[]", lib.olm_pk_key_length())
    private = bytes.fromhex(private)
    ret = lib.olm_pk_key_from_private(
        decryption._pk_decryption, public, len(public), ffi.from_buffer(private), len(private)
    )
    decryption._check_error(ret)
    return decryption, ffi.string(public).decode()


def public_key(private):
    return decryption(private)[1]


def encrypt(public, text):
    message = olm.pk.PkEncryption(public).encrypt(text)
    return [message.ciphertext, message.mac, message.ephemeral_key]


def decrypt(private, ciphertext, mac, ephemeral):
    return decryption(private)[0].decrypt(olm.pk.PkMessage(ephemeral, mac, ciphertext))


def export(session_key, index):
    return olm.InboundGroupSession.import_session(session_key).export_session(index)


def session_id(session_key):
    return olm.InboundGroupSession.import_session(session_key).id


def share(_):
    session = olm.OutboundGroupSession()
    return [session.id, session.session_key]


for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        answer = {"ok": globals()[name](*arguments)}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
