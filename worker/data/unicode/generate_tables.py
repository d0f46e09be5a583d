#!/usr/bin/env python3
"""Writes tables.inc: what the reference tokenizers library takes every code point for.

The tables are read out of the reference itself (PyPI tokenizers 0.23.3), by asking it about each
code point, because it mixes Unicode versions: its regular expressions know Unicode 16, its
normalisation and its punctuation are older. Run it with a Python that has that version:

    generate_tables.py > tables.inc
"""
import sys
import unicodedata

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
import tokenizers

EXPECTED_VERSION = "0.23.3"
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
ALL = "".join(map(chr, SCALARS))
CATEGORIES = (
    "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co"
).split()
SCRIPTS = """Unknown Common Inherited Latin Greek Cyrillic Armenian Hebrew Arabic Syriac Thaana Devanagari
Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul
Ethiopic Cherokee Canadian_Aboriginal Ogham Runic Khmer Mongolian Hiragana Katakana Bopomofo Han Yi Old_Italic
Gothic Deseret Tagalog Hanunoo Buhid Tagbanwa Limbu Tai_Le Linear_B Ugaritic Shavian Osmanya Cypriot Braille
Buginese Coptic New_Tai_Lue Glagolitic Tifinagh Syloti_Nagri Old_Persian Kharoshthi Balinese Cuneiform
Phoenician Phags_Pa Nko Sundanese Lepcha Ol_Chiki Vai Saurashtra Kayah_Li Rejang Lycian Carian Lydian Cham
Tai_Tham Tai_Viet Avestan Egyptian_Hieroglyphs Samaritan Lisu Bamum Javanese Meetei_Mayek Imperial_Aramaic
Old_South_Arabian Inscriptional_Parthian Inscriptional_Pahlavi Old_Turkic Kaithi Batak Brahmi Mandaic Chakma
Meroitic_Cursive Meroitic_Hieroglyphs Miao Sharada Sora_Sompeng Takri Caucasian_Albanian Bassa_Vah Duployan
Elbasan Grantha Pahawh_Hmong Khojki Linear_A Mahajani Manichaean Mende_Kikakui Modi Mro Old_North_Arabian
Nabataean Palmyrene Pau_Cin_Hau Old_Permic Psalter_Pahlavi Siddham Khudawadi Tirhuta Warang_Citi Ahom
Anatolian_Hieroglyphs Hatran Multani Old_Hungarian SignWriting Adlam Bhaiksuki Marchen Newa Osage Tangut
Masaram_Gondi Nushu Soyombo Zanabazar_Square Dogra Gunjala_Gondi Hanifi_Rohingya Makasar Medefaidrin
Old_Sogdian Sogdian Elymaic Nandinagari Nyiakeng_Puachue_Hmong Wancho Chorasmian Dives_Akuru
Khitan_Small_Script Yezidi Cypro_Minoan Old_Uyghur Tangsa Toto Vithkuqi Kawi Nag_Mundari Garay Gurung_Khema
Kirat_Rai Ol_Onal Sunuwar Todhri Tulu_Tigalari""".split()
# Bits of a record's flags, in the order of the constants in unicode.h.
FLAGS = (
    "white_space word alphabetic numeric punctuation other nonspacing combining "
    "nfc_unstable nfkc_unstable nfd_unstable nfkd_unstable has_class has_lower"
).split()


def regex_set(char_class):
    """The code points in a class of the library's regular expressions."""
    kept = normalizers.Replace(Regex("[^%s]" % char_class), "").normalize_str(ALL)
    return set(map(ord, kept))


def split_set(pre_tokenizer):
    """The code points that a removing pre-tokenizer keeps."""
    return {ord(c) for piece, _ in pre_tokenizer.pre_tokenize_str(ALL) for c in piece}


def isolated_set(pre_tokenizer):
    """The code points that are split from an `a` before and an `a` after them."""
    return {c for c in SCALARS if len(pre_tokenizer.pre_tokenize_str("a" + chr(c) + "a")) == 3}


def categories():
    result = {c: 0 for c in SCALARS}
    for index, name in enumerate(CATEGORIES):
        if name in ("Cn", "Cs"):
            continue
        for c in regex_set(r"\p{%s}" % name):
            assert result[c] == 0, hex(c)
            result[c] = index
    return result


def scripts():
    result = {c: 0 for c in SCALARS}
    for index, name in enumerate(SCRIPTS):
        if name == "Unknown":
            continue
        for c in regex_set(r"\p{%s}" % name):
            assert result[c] == 0, hex(c)
            result[c] = index
    return result


def splitter_scripts(script_of):
    """The class of each code point for the UnicodeScripts pre-tokenizer: 0 splits nothing."""
    pre = pre_tokenizers.UnicodeScripts()

    def apart(a, b):
        return len(pre.pre_tokenize_str(a + b)) == 2

    representatives = []  # of each class, in the order of their first code points
    by_script = {}
    result = {}
    for c in SCALARS:
        char = chr(c)
        if len(pre.pre_tokenize_str(char)) == 0:
            result[c] = 0
            continue
        guess = by_script.get(script_of[c])
        if guess is not None and not apart(char, representatives[guess - 1]):
            result[c] = guess
            continue
        for index, other in enumerate(representatives):
            if not apart(char, other):
                result[c] = index + 1
                break
        else:
            representatives.append(char)
            result[c] = len(representatives)
        by_script[script_of[c]] = result[c]
    assert len(representatives) < 256
    return result


def is_hangul(c):
    return 0xAC00 <= c < 0xAC00 + 11172


def combining_classes():
    """Canonical combining classes, read from the order in which NFD puts two marks."""
    nfd = normalizers.NFD()
    representative = {}
    for c in SCALARS:
        k = unicodedata.combining(chr(c))
        if k and k not in representative and nfd.normalize_str(chr(c)) == chr(c):
            representative[k] = chr(c)
    ordered = sorted(representative)

    def reorders(first, second):
        return first != second and nfd.normalize_str("a" + first + second) == "a" + second + first

    top = representative[ordered[-1]]    # the highest class: goes behind any other
    bottom = representative[ordered[0]]  # the lowest
    # A class whose first mark is newer than the reference's tables cannot be told apart.
    ordered = [k for k in ordered if reorders(top, representative[k]) or reorders(representative[k], bottom)]
    result = {}
    for c in SCALARS:
        char = chr(c)
        if nfd.normalize_str(char) != char:
            continue
        if not (reorders(top, char) or reorders(char, bottom)):
            continue
        known = unicodedata.combining(char)
        exact = [k for k in ([known] if known else []) + ordered
                 if not reorders(representative[k], char) and not reorders(char, representative[k])]
        assert exact, hex(c)
        result[c] = exact[0]
    return result


def decompositions(normalizer):
    result = {}
    for c in SCALARS:
        if is_hangul(c):
            continue
        text = normalizer.normalize_str(chr(c))
        if text != chr(c):
            result[c] = tuple(map(ord, text))
    return result


def compositions(canonical):
    """Pairs that NFC puts together, other than Hangul."""
    nfc = normalizers.NFC()
    result = {}
    for c, parts in canonical.items():
        if len(parts) < 2 or nfc.normalize_str("".join(map(chr, parts))) != chr(c):
            continue
        first = nfc.normalize_str("".join(map(chr, parts[:-1])))
        # With several marks of different classes another order may be the primary one.
        for i in range(len(parts) - 1, 0, -1):
            rest = parts[:i] + parts[i + 1:]
            first = nfc.normalize_str("".join(map(chr, rest)))
            if len(first) == 1 and nfc.normalize_str(first + chr(parts[i])) == chr(c):
                result[(ord(first), parts[i])] = c
    return result


def two_stage(values, block):
    blocks, index, seen = [], [], {}
    for start in range(0, 0x110000, block):
        part = tuple(values[start:start + block])
        if part not in seen:
            seen[part] = len(blocks)
            blocks.append(part)
        index.append(seen[part])
    return index, [v for part in blocks for v in part]


def emit(c_type, name, values, width=24):
    print("constexpr %s %s[%d] = {" % (c_type, name, len(values)))
    for i in range(0, len(values), width):
        print("    " + ", ".join(str(v) for v in values[i:i + width]) + ",")
    print("};")


def emit_mapping(name, mapping):
    keys = sorted(mapping)
    pool, starts = [], []
    for key in keys:
        starts.append(len(pool))
        pool.extend(mapping[key])
    starts.append(len(pool))
    emit("uint32_t", "k%sKeys" % name, keys, 14)
    emit("uint16_t", "k%sStarts" % name, starts)
    emit("uint32_t", "k%sPool" % name, pool, 14)


def main():
    assert tokenizers.__version__ == EXPECTED_VERSION, tokenizers.__version__
    category, script = categories(), scripts()
    splitter = splitter_scripts(script)
    forms = {name: getattr(normalizers, name.upper())() for name in ("nfc", "nfd", "nfkc", "nfkd")}
    canonical = decompositions(forms["nfd"])
    compatible = {c: d for c, d in decompositions(forms["nfkd"]).items() if canonical.get(c) != d}
    classes = combining_classes()
    pairs = compositions(canonical)
    seconds = {second for _, second in pairs}
    lower = normalizers.Lowercase()
    lowers = {c: tuple(map(ord, lower.normalize_str(chr(c)))) for c in SCALARS
              if lower.normalize_str(chr(c)) != chr(c)}
    bert = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False,
                                      strip_accents=False, lowercase=False)
    bert_accents = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False,
                                              strip_accents=True, lowercase=False)
    no_marks = normalizers.StripAccents()
    jamo = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))

    def unstable(form):
        return {c for c in SCALARS if forms[form].normalize_str(chr(c)) != chr(c)}

    sets = {
        "white_space": regex_set(r"\s"),
        "word": regex_set(r"\w"),
        "alphabetic": regex_set(r"\p{Alphabetic}"),
        "numeric": isolated_set(pre_tokenizers.Digits(individual_digits=True)),
        "punctuation": isolated_set(pre_tokenizers.Punctuation()),
        "other": {c for c in SCALARS if bert.normalize_str(chr(c)) == ""},
        # A mark may also decompose into something that goes; those never meet the filter themselves.
        "nonspacing": {c for c in SCALARS if c not in canonical
                       and bert_accents.normalize_str(chr(c)) == ""},
        "combining": {c for c in SCALARS if no_marks.normalize_str(chr(c)) == ""},
        "nfc_unstable": unstable("nfc") | seconds | jamo | set(classes),
        "nfkc_unstable": unstable("nfkc") | seconds | jamo | set(classes),
        "nfd_unstable": unstable("nfd") | set(classes),
        "nfkd_unstable": unstable("nfkd") | set(classes),
        "has_class": set(classes),
        "has_lower": set(lowers),
    }
    white = set(ALL) - {c for piece, _ in pre_tokenizers.WhitespaceSplit().pre_tokenize_str(ALL)
                        for c in piece}
    assert set(map(ord, white)) == sets["white_space"]
    words = split_set(pre_tokenizers.Whitespace())
    assert words == set(SCALARS) - sets["white_space"]
    pieces = pre_tokenizers.Whitespace()
    for c in SCALARS:  # the two engines must agree on \w
        if c not in sets["white_space"]:
            joined = len(pieces.pre_tokenize_str("a" + chr(c))) == 1
            if joined != (c in sets["word"]):
                print("the engines differ on \\w at %x" % c, file=sys.stderr)

    records, index_of, values = [], {}, [0] * 0x110000
    surrogate = (CATEGORIES.index("Cs"), 0, 0, 0)
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000:
            record = surrogate
        else:
            bits = sum(1 << i for i, name in enumerate(FLAGS) if c in sets[name])
            record = (category[c], script[c], splitter[c], bits)
        if record not in index_of:
            index_of[record] = len(records)
            records.append(record)
        values[c] = index_of[record]

    print("// Made by generate_tables.py; do not edit.")
    print("// clang-format off")
    block = min((32, 64, 128, 256), key=lambda b: sum(
        2 * len(part) for part in two_stage(values, b)))
    index, data = two_stage(values, block)
    print("constexpr int kBlock = %d;" % block)
    emit("uint16_t", "kBlockIndex", index)
    emit("uint16_t", "kRecordIndex", data)
    print("constexpr CharRecord kRecords[%d] = {" % len(records))
    for record in records:
        print("    {%d, %d, %d, 0x%x}," % record)
    print("};")
    print("constexpr absl::string_view kScriptNames[%d] = {" % len(SCRIPTS))
    for name in SCRIPTS:
        print('    "%s",' % name)
    print("};")
    emit_mapping("Canonical", canonical)
    emit_mapping("Compatible", compatible)
    emit_mapping("Lower", lowers)
    keys = sorted(classes)
    emit("uint32_t", "kClassKeys", keys, 14)
    emit("uint8_t", "kClassValues", [classes[k] for k in keys])
    ordered = sorted(pairs)
    print("constexpr Composition kCompositions[%d] = {" % len(ordered))
    for first, second in ordered:
        print("    {%d, %d, %d}," % (first, second, pairs[(first, second)]))
    print("};")
    print("// clang-format on")
    print("%d records, %d canonical, %d compatible, %d lower, %d classes, %d pairs" % (
        len(records), len(canonical), len(compatible), len(lowers), len(classes), len(pairs)),
        file=sys.stderr)


main()
