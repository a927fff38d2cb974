"""A tiny model of masks that was not trained, for the tests of several rooms."""

from transformers import set_seed

from hf_emktd import AvSegFormerConfig, AvSegFormerForAudioVisualSegmentation


def make_segmenter() -> AvSegFormerForAudioVisualSegmentation:
    """Its clips have three frames."""
    set_seed(0)
    config = AvSegFormerConfig(
        vision_hidden_sizes=[8, 8, 16, 16],
        vision_depths=[1, 1, 1, 1],
        vision_num_attention_heads=[1, 1, 2, 2],
        audio_channels=[4, 4, 8, 8, 8, 8],
        audio_hidden_size=16,
        audio_embedding_size=8,
        hidden_size=16,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        query_layers=1,
        num_queries=4,
        feed_forward_size=32,
        query_feed_forward_size=32,
        mask_mlp_size=16,
        norm_groups=4,
        image_size=32,
        num_frames=3,
    )
    return AvSegFormerForAudioVisualSegmentation(config).eval()
