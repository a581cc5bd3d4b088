#!/bin/sh
# Makes a parallel text, English and Spanish, of two translations of the Bible that Debian packages (both in the public
# domain: the World English Bible, and Reina-Valera 1909): DIRECTORY/en-es.tsv, a verse a line with a tab between, and
# text.txt with both, to learn a tokenizer from.
#
#     tools/parallel_text.sh [DIRECTORY]          demo-data/bible
set -eu
out=${1:-demo-data/bible}
english=engWEB2015eb spanish=spaRV1909eb
packages="sword-text-web sword-text-sparv libsword-utils"
if ! command -v mod2imp >/dev/null || [ ! -e /usr/share/sword/mods.d/$english.conf ] ||
    [ ! -e /usr/share/sword/mods.d/$spanish.conf ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing packages; run: apt-get install --no-install-recommends $packages" >&2
        exit 2
    fi
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi
mkdir -p "$out"

# A verse a line, "BOOK CHAPTER:VERSE<tab>text", without notes, headings and markup.
verses() {
    mod2imp "$1" 2>/dev/null | awk '
        function flush() {
            gsub(/<note[^>]*>([^<]|<[^\/]|<\/[^n]|<\/n[^o])*<\/note>/, " ", text)
            gsub(/<title[^>]*>[^<]*<\/title>/, "", text)
            gsub(/<[^>]*>/, "", text)
            gsub(/ ,/, ",", text); gsub(/ \./, ".", text); gsub(/ ;/, ";", text); gsub(/ :/, ":", text)
            gsub(/[ \t\r]+/, " ", text); sub(/^ /, "", text); sub(/ $/, "", text)
            if (key != "" && text != "") print key "\t" text
            text = ""
        }
        /^\$\$\$/ { flush(); key = substr($0, 4); if (key !~ /[1-9][0-9]*:[1-9]/) key = ""; next }
        { text = text " " $0 }
        END { flush() }'
}
verses $english >"$out/en.tmp"
verses $spanish >"$out/es.tmp"
awk -F '\t' 'NR == FNR { other[$1] = $2; next } $1 in other { print $2 "\t" other[$1] }' "$out/es.tmp" "$out/en.tmp" >"$out/en-es.tsv"
tr '\t' '\n' <"$out/en-es.tsv" >"$out/text.txt"
rm "$out/en.tmp" "$out/es.tmp"
echo "$out/en-es.tsv: $(wc -l <"$out/en-es.tsv") pairs, $(wc -c <"$out/en-es.tsv") bytes"
