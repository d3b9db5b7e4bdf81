"""Which parameters weight decay leaves alone, by patterns of their names.

Beside optimizer.py and not in it, so that a config can be read before JAX is imported: what is
wrong with a command line, or missing on the disk, is then said at once.
"""

# Biases, norms, layer scales and learned vectors.
NO_DECAY = ("*bias*", "*.scale", "*.gamma", "*pos_embed*", "*point_embed", "*mask_embed")
NO_DECAY += ("*mem_embed", "*_embed_spatial", "*_token", "*_tokens", "*_tpos_enc", "*no_obj_ptr")
# What the official recipe exempts: biases and the norms that PyTorch calls LayerNorm; the norms of
# convolutions, layer scales and learned vectors do decay there.
REFERENCE_NO_DECAY = (
    "*bias*",
    "image_encoder.trunk.*norm*.scale",
    "mask_decoder.transformer.*norm*.scale",
    "memory_attention.*norm*.scale",
)
