"""A vision-language model in small: Idefics3's architecture (SmolVLM's too), a processor as on the Hub, random weights.

    python scripts/demo_vlm.py FOLDER

It shows how things work, and says nothing of what it sees. Its processor cuts large pictures into tiles, so that other
sizes take other numbers of tokens. It is one of those that vLLM runs without torchvision, which is not in the CPU set.
"""

from __future__ import annotations

from pathlib import Path

TOKENIZER = Path(__file__).parents[1] / "assets" / "demo-model"
SIDE, PATCH, SCALE = 56, 14, 2  # of a tile, of what the tower sees as one, and how many of these become one token
# Idefics3's own: it takes lists of parts and no text.
TEMPLATE = (
    "<|begin|>{% for message in messages %}{{message['role'].capitalize()}}{% if message['content'][0]['type'] == "
    "'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def make(folder: Path) -> Path:
    """Its files, 3 MB, in some seconds, most of them for the imports; as they are where they are there."""
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers import PreTrainedTokenizerFast as Tokenizer
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = Tokenizer.from_pretrained(TOKENIZER)
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<global-img>", *places]})
    edges = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    images, tokens = Idefics3ImageProcessorPil(**edges), (SIDE // PATCH // SCALE) ** 2
    tokenizer.chat_template = TEMPLATE
    processor = Idefics3Processor(images, tokenizer, image_seq_len=tokens, chat_template=TEMPLATE)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 1024}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = Idefics3Config(
        vision_config={**shape, "image_size": SIDE, "patch_size": PATCH},
        text_config={**shape, **text, **ids, "model_type": "llama"},
        image_token_id=processor.image_token_id,
        scale_factor=SCALE,
        **ids,
    )
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config)
    for weight in model.parameters():
        if weight.ndim > 1:  # large enough that a picture changes the answer
            torch.nn.init.normal_(weight, std=0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    import sys

    make(Path(sys.argv[1]))
