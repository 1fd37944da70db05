"""The scores of a description: the field's caption metrics, word error, and the speech that went through the codec."""
