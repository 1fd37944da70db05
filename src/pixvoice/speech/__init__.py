"""Waveform <-> tokens, speech <-> text: codecs, recognizers and the engines that make spoken captions."""
