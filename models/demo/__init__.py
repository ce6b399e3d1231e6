"""The demo model: a tiny Qwen3-VL that is trained on pictures, clips and dialogues which this package
draws.
"""
