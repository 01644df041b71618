"""Texts in, tables out: the suite, training pairs with hard negatives, probe texts, decontamination."""
