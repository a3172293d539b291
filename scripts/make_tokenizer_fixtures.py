#!/usr/bin/env python3
"""Writes tests/fixtures/tokenizer/cases.json: small tokenizers and Hugging Face's ids of texts.

Needs the Python package tokenizers; the tests need only what it writes. The file is

    {"tokenizers": VERSION,
     "bases": {NAME: {a tokenizer.json}},
     "cases": [{"name": .., "base": NAME, "members": {of the file, in place of the base's},
                "model": {the same of its model},
                "texts": [{"text": .., "ids": [..], "special": [ids with the post-processor],
                           "decoded": ..}]}],
     "training": {"texts": [..], "vocab_size": .., "min_frequency": .., "lowercase": ..,
                  "merges": [[left, right]..], "vocab": {..}}}

The vocabularies are trained on the sentences below. Characters newer than Unicode 14 are left out:
PCRE2 and utf8proc of Debian 12 do not know them.

Run:  python3 scripts/make_tokenizer_fixtures.py [OUTPUT-FILE]
"""

import copy
import json
import sys

import tokenizers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

MARK = "\u2581"
SENTENCES = [
    "The quick brown fox jumps over the lazy dog; the dog doesn't care.",
    "She'll read 12345 pages, and they've read 67 more. I'm reading, you're reading!",
    "Sparse retrieval: terms with weights, 3.14159 and 2.71828, in an inverted index.",
    "caf\u00e9 na\u00efve \u00fcber Stra\u00dfe \u0130stanbul \u4e2d\u6587 \ud55c\uad6d\uc5b4",
    "the theory of the thing is that these things are there, then and there",
    "a person who studies the stars; an astronomer watches the sky at night",
    "def f(x):\n    return x + 1\n\n\nprint(f(41))\n",
    "a large natural stream of water, larger than a creek; the river was navigable for 50 miles",
    "the act of changing location from one place to another; moving is easier than staying",
    "someone who teaches others, especially in a school; an instructor; teachers and teaching",
    "having or showing great intelligence or learning; learned, knowing, informed, well-read",
    "an instrument for measuring the temperature of the atmosphere or of a human body",
    "to make a loud noise by striking together; resounding, echoing, clattering sounds",
] * 2
TEXTS = [
    "", " ", "   ", "the", " the", "The theory of stars", "  two  spaces  ",
    "she'll they've I'M YOU'LL", "12345678 3.14", "tabs\tand\r\nlines\n\n\nend \n ",
    "caf\u00e9 cafe\u0301 \u00c5 A\u030a \u212b \ufb01 \u2460 \u00bd",
    "\u4e2d\u6587\u548c\u65e5\u672c\u8a9e", "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\U0001f600\U0001f468\u200d\U0001f469 ok", "\u0130 \u01c5 \u03a3\u03c2 STRASSE \u1e9e",
    "a\u00a0b\u2003c\u3000d\u0085e\u180ef\u200bg\u2028h", "x<s>y</s> <mask> z<mask>  <mask>",
    "word wordy a word, WORD <|begin_of_text|>word", "1\u00b2 \u2167 \u0664\u0665 \u24d0",
    MARK + "mark" + MARK + MARK + "x", "punct!?... (a) [b] {c} \u2014 \u00abd\u00bb",
    "\u0001\u007f\ufeff\ue000", "\u02b0a_b-c'd\"e", "the " * 12, "xyzzy" * 9,
    "\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd \u0939\u093f\u0928\u094d\u0926\u0940",
    "<0x41><0x20>", "\n\n \n", "\u4e2d\u3001\u30a2\u30fc\u3006\u65e5", "a" + " " * 9 + "b",
    "an instructor reading intelligently in a noisy atmosphere; unlearned restreaming teachings",
    "telescopes and thermometers measured the larger stars: navigation, relocation, inspection",
    "intermeasuring rivers especially resounds; knowledgeable astronomers clatter, echo, change.",
]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(use_regex=False, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True,
            "use_regex": use_regex}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(key, *members):
    return {"type": "Sequence", key: list(members)}


def metaspace(scheme, cut=True):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": cut}


def template(token, number):
    one = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    two = one + [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": one, "pair": two,
            "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}}}


def added(number, content, **flags):
    token = dict(id=number, content=content, single_word=False, lstrip=False, rstrip=False,
                 normalized=False, special=True)
    token.update(flags)
    return token


def trained_byte_level():
    """A byte-level model of 700 tokens."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=700, min_frequency=2, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return json.loads(t.to_str())


def trained_pieces():
    """A SentencePiece-type model: <unk> <s> </s>, bytes, pieces; a few letters are missing."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(SENTENCES[:3] + SENTENCES[4:6] + SENTENCES[7:13], trainers.BpeTrainer(
        vocab_size=400, min_frequency=1, show_progress=False))
    d = json.loads(t.to_str())
    names = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    names += sorted(d["model"]["vocab"], key=d["model"]["vocab"].get)
    names += [MARK * 2, MARK * 4]
    d["model"]["merges"] += [[MARK, MARK], [MARK * 2, MARK * 2]]
    d["model"]["vocab"] = {name: i for i, name in enumerate(names)}
    d["model"]["unk_token"] = "<unk>"
    d["model"]["fuse_unk"] = d["model"]["byte_fallback"] = True
    d["added_tokens"] = [added(i, names[i]) for i in range(3)]
    d["post_processor"] = template("<s>", 1)
    d["decoder"] = sequence(
        "decoders", {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return d


def variant(**members):
    """Members in place of the base's; model_... go into the model."""
    return ({key: value for key, value in members.items() if not key.startswith("model_")},
            {key[6:]: value for key, value in members.items() if key.startswith("model_")})


def byte_level_cases(b):
    n = len(b["model"]["vocab"])
    flags = [added(n, "<mask>", lstrip=True), added(n + 1, "<s>", rstrip=True),
             added(n + 2, "</s>", normalized=True),
             added(n + 3, "word", special=False, single_word=True),
             added(n + 4, "<|begin_of_text|>", lstrip=True, rstrip=True)]
    legacy = [" ".join(m) for m in b["model"]["merges"]]
    yield "llama3", variant(
        added_tokens=[added(n, "<|begin_of_text|>"), added(n + 1, "<|end_of_text|>")],
        model_ignore_merges=True,
        pre_tokenizer=sequence("pretokenizers", split({"Regex": LLAMA3}), byte_level()),
        post_processor=sequence("processors", byte_level(True, True),
                                template("<|begin_of_text|>", n)))
    yield "qwen2", variant(
        normalizer={"type": "NFC"}, model_merges=legacy, model_continuing_subword_prefix="",
        pre_tokenizer=sequence("pretokenizers", split({"Regex": QWEN2}), byte_level()),
        post_processor=byte_level())
    yield "gpt2", variant(pre_tokenizer=byte_level(True), model_merges=legacy)
    yield "gpt2 with a prefix space", variant(pre_tokenizer=byte_level(True, True))
    yield "gpt4o", variant(
        pre_tokenizer=sequence("pretokenizers", split({"Regex": GPT4O}), byte_level()))
    yield "starcoder digits", variant(pre_tokenizer=sequence(
        "pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(True)))
    yield "flags of added tokens", variant(
        added_tokens=flags, normalizer={"type": "Lowercase"}, pre_tokenizer=byte_level(True))
    for form in ("NFD", "NFKC", "NFKD"):
        yield form, variant(normalizer={"type": form}, pre_tokenizer=byte_level(True))
    yield "strip and replace", variant(pre_tokenizer=byte_level(True), normalizer=sequence(
        "normalizers", {"type": "Strip", "strip_left": True, "strip_right": False},
        {"type": "Replace", "pattern": {"Regex": r"\s{2,}|\d"}, "content": " "},
        {"type": "Replace", "pattern": {"String": "the"}, "content": ""}))
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield "split " + behavior, variant(pre_tokenizer=sequence(
            "pretokenizers", split({"Regex": r"[^\S\n]|[aeiou]\w"}, behavior), byte_level()))
    yield "split inverted", variant(pre_tokenizer=sequence(
        "pretokenizers", split({"Regex": r"\p{L}+|\p{N}|\p{Han}"}, "Removed", True), byte_level()))
    yield "split by a string", variant(pre_tokenizer=sequence(
        "pretokenizers", split({"String": " "}, "MergedWithNext"), byte_level()))
    for kind in ("Whitespace", "WhitespaceSplit"):
        yield kind, variant(pre_tokenizer=sequence("pretokenizers", {"type": kind}, byte_level()))
    yield "split by script", variant(pre_tokenizer=sequence(
        "pretokenizers", split({"Regex": r"\p{Han}+|\p{Katakana}"}, "Removed"), byte_level()))
    yield "no decoder", variant(pre_tokenizer=byte_level(True), decoder=None)


def piece_cases(p):
    prepend = sequence("normalizers", {"type": "Prepend", "prepend": MARK},
                       {"type": "Replace", "pattern": {"String": " "}, "content": MARK})
    yield "llama2", variant(normalizer=prepend, pre_tokenizer=None,
                            model_merges=[" ".join(m) for m in p["model"]["merges"]])
    for scheme in ("first", "always", "never"):
        for cut in (False, True):
            yield "metaspace %s split %s" % (scheme, cut), variant(
                pre_tokenizer=metaspace(scheme, cut), decoder=metaspace(scheme, cut))
    for kind in ({"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": True}):
        yield "first word behind " + kind["type"], variant(
            pre_tokenizer=sequence("pretokenizers", kind, metaspace("first", False)))
    across = dict(p["model"]["vocab"], **{"e" + MARK: len(p["model"]["vocab"])})
    yield "merges across words", variant(normalizer=prepend, pre_tokenizer=None, model_vocab=across,
                                         model_merges=[["e", MARK]] + p["model"]["merges"])
    yield "no byte_fallback", variant(normalizer=prepend, pre_tokenizer=None,
                                      model_byte_fallback=False)
    yield "no byte_fallback, unknowns apart", variant(
        normalizer=prepend, pre_tokenizer=None, model_byte_fallback=False, model_fuse_unk=False)
    yield "no unknown token", variant(normalizer=prepend, pre_tokenizer=None,
                                      model_byte_fallback=False, model_unk_token=None)
    yield "whole pieces", variant(normalizer=prepend, pre_tokenizer=None, model_ignore_merges=True)


def case(name, base_name, base, members, model):
    d = dict(copy.deepcopy(base), **members)
    d["model"].update(model)
    t = Tokenizer.from_str(json.dumps(d))
    texts = []
    for text in TEXTS:
        ids = t.encode(text, add_special_tokens=False).ids
        texts.append({"text": text, "ids": ids, "special": t.encode(text).ids,
                      "decoded": t.decode(ids, skip_special_tokens=False)})
    return {"name": name, "base": base_name, "members": members, "model": model, "texts": texts}


def training():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Lowercase()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=400, min_frequency=3, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    model = json.loads(t.to_str())["model"]
    return {"texts": SENTENCES, "vocab_size": 402, "min_frequency": 3, "lowercase": True,
            "merges": model["merges"], "vocab": model["vocab"]}


def main():
    bases = {"bytes": trained_byte_level(), "pieces": trained_pieces()}
    bases["bytes"]["decoder"] = byte_level(True, True)
    cases = [case(name, "bytes", bases["bytes"], *changes)
             for name, changes in byte_level_cases(bases["bytes"])]
    cases += [case(name, "pieces", bases["pieces"], *changes)
              for name, changes in piece_cases(bases["pieces"])]
    path = sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/tokenizer/cases.json"
    with open(path, "w", encoding="utf-8") as out:
        out.write('{"tokenizers": %s,\n"training": %s,\n"bases": %s,\n"cases": [\n%s\n]}\n' % (
            json.dumps(tokenizers.__version__), json.dumps(training()), json.dumps(bases),
            ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)))


if __name__ == "__main__":
    main()
