"""What every test may use: a whole model of random weights, tiny, so that nothing here takes long."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mezzotint.store.folder import Parts

CORPUS = ["a red sphere to the left of a blue cube", "two green cones behind a yellow torus", "a small black cylinder"]


def make_tiny_parts() -> Parts:
    """A model of random weights that draws 16 x 16 pixels in milliseconds."""
    import torch

    from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
    from mezzotint.denoise.unet import UNet, UNetConfig
    from mezzotint.noise.schedule import NoiseSchedule
    from mezzotint.store.facts import Facts
    from mezzotint.store.folder import Parts
    from mezzotint.text import train_tokenizer
    from mezzotint.vae.autoencoder import Autoencoder
    from mezzotint.vae.config import AutoencoderConfig

    tokenizer = train_tokenizer(CORPUS, 600)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=tokenizer.vocab_size,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=tokenizer.bos_id,
                eos_token_id=tokenizer.eos_id,
                pad_token_id=tokenizer.pad_id,
            )
        )
        unet = UNet(
            UNetConfig(
                sample_size=2,
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                cross_attention_dim=16,
                attention_head_dim=2,
                norm_num_groups=4,
            )
        )
        vae = Autoencoder(AutoencoderConfig.of_widths(8, 8, 8, 8, norm_num_groups=4, sample_size=16))
    facts = Facts(name="tiny", about="random weights", sizes=((16, 16),), defaults={"steps": 3, "guidance": 2.0})
    return Parts(
        tokenizer=tokenizer,
        text_encoder=text.eval(),
        unet=unet.eval(),
        vae=vae.eval(),
        schedule=NoiseSchedule(),
        facts=facts,
    )


@pytest.fixture(scope="session")
def tiny_parts() -> Parts:
    """The tiny model's parts; nobody may change them."""
    return make_tiny_parts()


@pytest.fixture(scope="session")
def tiny_folder(tiny_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in a folder; nobody may change it."""
    from mezzotint.store.folder import save_folder

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(tiny_parts, folder, card="# tiny\n")
    return folder


@pytest.fixture(scope="session")
def extras(tiny_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files beside the tiny model; nobody may change it.

    cat.safetensors, a LoRA of kohya's with the learned word <purr>, and ink.safetensors, one of peft's, both of the
    U-Net and the text encoder; word.safetensors, the learned word <thing>; vae and vae.safetensors, an autoencoder.
    """
    import copy

    import torch
    from safetensors.torch import save_file

    from mezzotint.store.part import save_part

    folder = tmp_path_factory.mktemp("extras")
    rng = torch.Generator().manual_seed(1)
    cat: dict[str, torch.Tensor] = {}
    ink: dict[str, torch.Tensor] = {}
    nets = {"unet": tiny_parts.unet, "text_encoder": tiny_parts.text_encoder}
    for part, prefix, ends in (("unet", "lora_unet_", ("to_q", "to_k", "conv1")), ("text_encoder", "lora_te_", "fc1")):
        for name, weight in nets[part].named_parameters():
            layer = name.removesuffix(".weight")
            if layer.endswith(ends):
                o, i, *kernel = weight.shape
                down, up = (0.3 * torch.randn(shape, generator=rng) for shape in ((2, i, *kernel), (o, 2)))
                up = up.reshape(o, 2, *[1] * len(kernel))
                flat = prefix + layer.replace(".", "_")
                cat |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.ones(())}
                peft = f"{part}.{layer}"
                ink |= {f"{peft}.lora_A.weight": down.flip(0).neg(), f"{peft}.lora_B.weight": up}
    cat["bundle_emb.<purr>.emb_params"] = torch.randn(1, 16, generator=rng)
    save_file(cat, folder / "cat.safetensors")
    save_file(ink, folder / "ink.safetensors")
    save_file({"<thing>": torch.randn(2, 16, generator=rng)}, folder / "word.safetensors")
    vae = copy.deepcopy(tiny_parts.vae)
    with torch.no_grad():
        vae.decoder.conv_out.bias += 0.3
    (saved,) = save_part(vae, vae.config.to_dict(), folder / "vae")
    (folder / "vae.safetensors").write_bytes(saved.read_bytes())
    return folder
