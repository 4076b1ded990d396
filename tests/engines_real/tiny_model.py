"""Make a tiny random Llama that real engines can serve: `tiny_model.py FOLDER`.

Run by an engine's own Python; it needs numpy and safetensors only. The tokenizer is the scripted
model's, so that chats have a template. What it says makes no sense, but always the same.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SOURCE = Path(__file__).parents[2] / "smg" / "testing" / "model"
HIDDEN, LAYERS, HEADS, CONTEXT = 128, 2, 4, 2048


def weights(vocabulary: int) -> dict[str, np.ndarray]:
    """Random matrices under the names that Llama's have."""
    random = np.random.default_rng(7)

    def matrix(*shape: int) -> np.ndarray:
        return random.normal(0, 0.02, shape).astype(np.float32)

    one = np.ones(HIDDEN, np.float32)
    found = {
        "model.embed_tokens.weight": matrix(vocabulary, HIDDEN),
        "model.norm.weight": one,
        "lm_head.weight": matrix(vocabulary, HIDDEN) * 20,
    }
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        for name in "qkvo":
            found[f"{layer}.self_attn.{name}_proj.weight"] = matrix(HIDDEN, HIDDEN)
        found[f"{layer}.mlp.gate_proj.weight"] = matrix(2 * HIDDEN, HIDDEN)
        found[f"{layer}.mlp.up_proj.weight"] = matrix(2 * HIDDEN, HIDDEN)
        found[f"{layer}.mlp.down_proj.weight"] = matrix(HIDDEN, 2 * HIDDEN)
        found[f"{layer}.input_layernorm.weight"] = one
        found[f"{layer}.post_attention_layernorm.weight"] = one
    return found


def config(vocabulary: int, eos: int) -> dict[str, object]:
    """What transformers calls this model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": eos,
    }


def main(folder: Path) -> None:
    """Write the model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((SOURCE / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = max(*added.values(), *tokenizer["model"]["vocab"].values()) + 1
    eos = added["<|im_end|>"]
    (folder / "config.json").write_text(json.dumps(config(vocabulary, eos)))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    save_file(weights(vocabulary), folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(SOURCE / name, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
