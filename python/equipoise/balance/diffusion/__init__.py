"""MCRAGE: conditional diffusion of single visits, made for sparse binary columns.

Behal et al. (MCRAGE, arXiv 2310.18430, 2023) train a conditional denoising diffusion model on the
imbalanced data and fill the minority classes with its samples. Theirs adds Gaussian noise, and has
no public code. Gaussian noise has no place for a column that is 1 in one visit of a thousand, and
discrete diffusion is what works for records of codes (EHR-D3PM, Han et al., arXiv 2404.12314,
2024). So this one is discrete:

- Noise covers. A visit is D variables: each code is there or not, each lab has one of its bins or
  none. The forward process covers one variable after the other, in random order, until none is
  left: the absorbing process of D3PM (Austin et al., NeurIPS 2021) in its limit of many steps,
  which is the order-agnostic autoregressive diffusion of Hoogeboom et al. (ICLR 2022). Covering
  suits sparse columns: what is uncovered is right for good, so no noise of a thousand columns has
  to be taken back, and all that is covered is drawn from its own share at first.
- The network sees what is uncovered and the cell (bits of the label and of each group, so that a
  cell of one row borrows from others), and tells each covered variable's distribution. Time is no
  input: how much is covered says it (Ou et al., ICLR 2025).
- The loss is the exact bound of that process to minus the log-likelihood, in nats per visit.
- The reverse process draws a random order and uncovers D variables in T steps, each from the
  network's own distribution. With T >= D it is exact; else variables of one step are drawn
  independently given those before (Hoogeboom et al., parallel generation).

There is no guidance: it would sharpen a cell's distribution, and the aim is that distribution.
Hence the condition is never hidden in training either.

`method` is the balancing method, `mcrage` the model in JAX, `variables` what a visit is made of.
"""
