"""Texts that tokenizers disagree about: every plane of Unicode, marks, white space, code, added tokens."""
import random

WORDS = (
    "the quick brown fox it's I'll you've WE'RE don't HTTPServer snake_case camelCase 3.14159 1234567 "
    "0x1F4A9 naïve café déjà-vu Straße ſ 'ſ Ω Å ǅ ﬁ ½ Ⅷ ٣٤٥ १२३ 你好世界 日本語テキスト 한국어 ไทย עברית "
    "العربية русский ελληνικά Tiếng\u00a0Việt 😀 👩‍👩‍👧‍👦 🇩🇪 e\u0301 q\u0307\u0323 \u1100\u1161\u11a8 "
    "\u200b\u200d \ufeff <s> </s> [INST] <|x|> ## ▁ ▁▁ ĠĠ Ġ \\n {\"a\": [1, 2]} foo(bar); // !!! ... --- "
    "\u0130I \u1e9e \u212a K's 'K 'S 'LL 'Ve ''s don\u2019t"
).split(" ")
SPACES = [" ", "  ", "   ", " " * 17, "\t", "\n", "\r\n", "\n\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028",
          "\u0085", "\x0b", "\x0c", "\u180e", "\u200b", " \t ", "\r"]
RANGES = [(0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x17f), (0x300, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x900, 0xdff),
          (0x1100, 0x11ff), (0x1e00, 0x1fff), (0x2000, 0x2bff), (0x3000, 0x30ff), (0x4e00, 0x9fff),
          (0xac00, 0xd7a3), (0xe000, 0xe010), (0xf900, 0xfaff), (0xfb00, 0xffff), (0x10000, 0x1ffff),
          (0x20000, 0x2a6df), (0x2f800, 0x2fa1f), (0x30000, 0x323af), (0xe0000, 0xe01ef), (0x10fff0, 0x10ffff)]


def char(rng):
    while True:
        low, high = rng.choice(RANGES)
        c = rng.randint(low, high)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def piece(rng, added):
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(WORDS)
    if kind < 0.55:
        return rng.choice(SPACES)
    if kind < 0.65:
        return "".join(char(rng) for _ in range(rng.randint(1, 6)))
    if kind < 0.72:
        low, high = rng.choice(RANGES)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8))
                       ).encode("utf-8", "ignore").decode()
    if kind < 0.80:
        return str(rng.randint(0, 10 ** rng.randint(1, 12)))
    if kind < 0.86:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCXYZ") for _ in range(rng.randint(1, 14)))
    if kind < 0.92:
        return "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(rng.randint(1, 5)))
    if kind < 0.95:
        return chr(rng.randint(0, 0x2f))
    return rng.choice(added) if added else rng.choice(WORDS)


def generate(count, seed, added=(), max_pieces=12):
    """`count` texts, always the same ones for a seed."""
    rng = random.Random(seed)
    added = sorted(added)
    texts = ["", " ", "\n", "a", "'", "  ", "a ", " a"]
    while len(texts) < count:
        texts.append("".join(piece(rng, added) for _ in range(rng.randint(1, max_pieces))))
    return texts[:count]


def break_utf8(texts, seed):
    """The texts as bytes, some of them broken."""
    rng = random.Random(seed)
    broken = []
    for text in texts:
        data = bytearray(text.encode())
        for _ in range(rng.randint(1, 3)):
            at = rng.randint(0, len(data))
            if data and rng.random() < 0.5:
                del data[at:at + 1]
            else:
                data[at:at] = bytes(rng.choice([0xff, 0xc3, 0xe2, 0xf0, 0x80, 0xed, 0xa0, 0xc0])
                                    for _ in range(rng.randint(1, 2)))
        broken.append(bytes(data))
    return broken
