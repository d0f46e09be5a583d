"""Holds Graft's tokenizers against the reference's, text by text.

    compare.py DRIVER COUNT tokenizer.json...

Each text's ids and offsets must be the same, with and without special tokens, and so must what the ids
decode to, at once and as a stream. Prints how many were compared; any difference is shown and fails.
"""
import struct
import subprocess
import sys
import tempfile

import texts as generator

ADD_SPECIAL, AS_TEXT, DECODE, STREAM = 1, 2, 4, 8


class Driver:
    def __init__(self, binary, kind, path):
        self.command = [binary, kind, path]

    def run(self, requests):
        """Answers to (flags, bytes) pairs: (ids, offsets), an error message, or decoded bytes."""
        with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered:
            for flags, body in requests:
                asked.write(struct.pack("<BI", flags, len(body)) + body)
            asked.seek(0)
            subprocess.run(self.command, stdin=asked, stdout=answered, check=True)
            answered.seek(0)
            data = memoryview(answered.read())
        at, out = 0, []

        def number():
            nonlocal at
            at += 4
            return struct.unpack_from("<I", data, at - 4)[0]

        def text():
            nonlocal at
            length = number()
            at += length
            return bytes(data[at - length:at])

        for flags, _ in requests:
            if flags & (DECODE | STREAM):
                out.append(text())
                continue
            count = number()
            if count == 0xFFFFFFFF:
                out.append(text().decode())
                continue
            ids = struct.unpack_from("<%di" % count, data, at)
            at += 4 * count
            flat = struct.unpack_from("<%dI" % (2 * count), data, at)
            at += 8 * count
            out.append((list(ids), list(zip(flat[::2], flat[1::2]))))
        assert at == len(data), (at, len(data))
        return out


def char_offsets(raw, offsets):
    """Offsets in bytes of `raw` as offsets in characters of its decoding."""
    if not isinstance(raw, bytes):
        raw = raw.encode()
    places, at, chars = {}, 0, 0
    text = raw.decode("utf-8", "replace")
    if text.encode() == raw:
        for c in text:
            places[at] = chars
            at += len(c.encode())
            chars += 1
    else:
        while at < len(raw):
            places[at] = chars
            for length in range(1, 5):
                unit = raw[at:at + length].decode("utf-8", "replace")
                longer = raw[at:at + length + 1].decode("utf-8", "replace")
                if len(unit) == 1 and (len(longer) > 1 or at + length >= len(raw)):
                    break
            at += length
            chars += 1
    places[at] = chars
    return [(places.get(b, ("byte", b)), places.get(e, ("byte", e))) for b, e in offsets]


def differences(driver, reference, inputs, flags):
    """Compares encodings of texts (str, or bytes that may be broken); yields what differs."""
    requests = [(flags, t if isinstance(t, bytes) else t.encode()) for t in inputs]
    reference.encode_special_tokens = bool(flags & AS_TEXT)
    for raw, answer in zip(inputs, driver.run(requests)):
        text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
        try:
            want = reference.encode(text, add_special_tokens=bool(flags & ADD_SPECIAL))
        except Exception as error:  # noqa: BLE001
            if not isinstance(answer, str):
                yield raw, "reference fails: %s" % error, answer
            continue
        if isinstance(answer, str):
            yield raw, (want.ids, want.offsets), answer
            continue
        got = (answer[0], char_offsets(raw, answer[1]))
        if got[0] != want.ids or got[1] != list(map(tuple, want.offsets)):
            yield raw, (want.ids, want.offsets, want.tokens), got
    reference.encode_special_tokens = False


def decode_differences(driver, reference, id_lists):
    for flags in (DECODE, DECODE | ADD_SPECIAL, STREAM, STREAM | ADD_SPECIAL):
        requests = [(flags, struct.pack("<%di" % len(ids), *ids)) for ids in id_lists]
        for ids, answer in zip(id_lists, driver.run(requests)):
            want = reference.decode(ids, skip_special_tokens=bool(flags & ADD_SPECIAL))
            got = answer.decode()
            if got != want:
                yield (flags, ids), want, got


def compare(name, driver, reference, count, seed=1, streams=True):
    """Number of differences; prints the first few."""
    reference.no_truncation()
    reference.no_padding()
    added = [t.content for t in reference.get_added_tokens_decoder().values()]
    inputs = generator.generate(count, seed, added)
    broken = generator.break_utf8(inputs[:max(1, count // 10)], seed)
    found = []
    for batch, flags in ((inputs, 0), (inputs[:count // 4], ADD_SPECIAL), (inputs[:count // 4], AS_TEXT), (broken, 0)):
        found.extend(differences(driver, reference, batch, flags))
    import random
    rng = random.Random(seed)
    vocab = sorted(reference.get_vocab(with_added_tokens=True).values())
    id_lists = [reference.encode(t).ids for t in inputs[:count // 4]]
    id_lists = [ids for ids in id_lists if ids]
    # A broken run of byte tokens is where a stream differs (tokenizer.h).
    if streams and "ByteFallback" not in reference.to_str()[:20000]:
        id_lists += [[rng.choice(vocab) for _ in range(rng.randint(1, 12))] for _ in range(count // 8)]
    found.extend(decode_differences(driver, reference, id_lists))
    total = len(inputs) + 2 * (count // 4) + len(broken) + 4 * len(id_lists)
    print("%-44s %8d compared, %d differ" % (name, total, len(found)), flush=True)
    for raw, want, got in found[:3]:
        print("  input %r\n    want %r\n    got  %r" % (raw, want, got))
    return len(found)


def main():
    import tokenizers
    binary, count = sys.argv[1], int(sys.argv[2])
    failed = 0
    for path in sys.argv[3:]:
        reference = tokenizers.Tokenizer.from_file(path)
        failed += compare(path.split("/")[-2] + "/" + path.split("/")[-1], Driver(binary, "json", path), reference, count)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
