"""A fused head in Triton, a peer of bench_gpu.py: the maximum over a text's tokens is taken inside the product,
so that logits are never stored, and its gradient goes through the saved positions. Written after the idea
published as Sparton (arXiv 2603.25011), plainly: no claim to be that program or as fast."""
import torch
import triton
import triton.language as tl

BLOCK_V, BLOCK_T, BLOCK_D = 128, 64, 64


@triton.jit
def forward_kernel(h, e, keep, w, arg, T, V, D: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr):
    """One text and BV terms: max and first argmax over T tokens."""
    b, v = tl.program_id(1), tl.program_id(0) * BV + tl.arange(0, BV)
    best, where = tl.full((BV,), float("-inf"), tl.float32), tl.zeros((BV,), tl.int32)
    for t0 in range(0, T, BT):
        t = t0 + tl.arange(0, BT)
        sum = tl.zeros((BT, BV), tl.float32)
        for d0 in range(0, D, BD):
            d = d0 + tl.arange(0, BD)
            x = tl.load(h + (b.to(tl.int64) * T + t[:, None]) * D + d[None, :], mask=(t < T)[:, None], other=0.0)
            y = tl.load(e + v[None, :].to(tl.int64) * D + d[:, None], mask=(v < V)[None, :], other=0.0)
            sum += tl.dot(x, y)
        kept = (t < T) & (tl.load(keep + b * T + t, mask=t < T, other=0) != 0)
        sum = tl.where(kept[:, None], sum, float("-inf"))
        top, row = tl.max(sum, 0), tl.argmax(sum, 0)
        where = tl.where(top > best, t0 + row, where)
        best = tl.maximum(best, top)
    value = tl.log(1.0 + tl.maximum(best, 0.0))
    tl.store(w + b.to(tl.int64) * V + v, value, mask=v < V)
    tl.store(arg + b.to(tl.int64) * V + v, where, mask=v < V)


@triton.jit
def hidden_kernel(g, arg, e, dh, T, V, D: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr):
    """One text and BD columns of dh: adds g e to the rows that won."""
    b, d = tl.program_id(1), tl.program_id(0) * BD + tl.arange(0, BD)
    for v0 in range(0, V, BV):
        v = v0 + tl.arange(0, BV)
        part = tl.load(g + b.to(tl.int64) * V + v, mask=v < V, other=0.0)
        row = tl.load(arg + b.to(tl.int64) * V + v, mask=v < V, other=0)
        live = (part != 0.0)[:, None]
        value = tl.load(e + v[:, None].to(tl.int64) * D + d[None, :], mask=live, other=0.0).to(tl.float32)
        tl.atomic_add(dh + (b.to(tl.int64) * T + row[:, None]) * D + d[None, :], part[:, None] * value, mask=live)


@triton.jit
def vocabulary_kernel(g, arg, h, de, B, T, V, D: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr):
    """BV terms and BD columns of de: gathers the rows that won in every text."""
    d, v = tl.program_id(0) * BD + tl.arange(0, BD), tl.program_id(1) * BV + tl.arange(0, BV)
    sum, first = tl.zeros((BV, BD), tl.float32), tl.zeros((BV,), tl.int64)
    for _ in range(0, B):
        part = tl.load(g + v, mask=v < V, other=0.0)
        row = first + tl.load(arg + v, mask=v < V, other=0)
        value = tl.load(h + row[:, None] * D + d[None, :], mask=(part != 0.0)[:, None], other=0.0)
        sum += part[:, None] * value.to(tl.float32)
        g += V
        arg += V
        first += T
    tl.store(de + v[:, None].to(tl.int64) * D + d[None, :], sum, mask=(v < V)[:, None])


class FusedMaxHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, e, keep):
        (B, T, D), V = h.shape, e.shape[0]
        w = torch.empty(B, V, device=h.device, dtype=torch.float32)
        arg = torch.empty(B, V, device=h.device, dtype=torch.int32)
        forward_kernel[(triton.cdiv(V, BLOCK_V), B)](h, e, keep, w, arg, T, V, D, BLOCK_V, BLOCK_T, BLOCK_D)
        ctx.save_for_backward(h, e, w, arg)
        return w

    @staticmethod
    def backward(ctx, dw):
        h, e, w, arg = ctx.saved_tensors
        (B, T, D), V = h.shape, e.shape[0]
        g = torch.where(w > 0, dw.float() * torch.exp(-w), 0.0)
        dh = torch.zeros(B, T, D, device=h.device, dtype=torch.float32)
        de = torch.empty(V, D, device=h.device, dtype=torch.float32)
        hidden_kernel[(triton.cdiv(D, 128), B)](g, arg, e, dh, T, V, D, 32, 128)
        vocabulary_kernel[(triton.cdiv(D, 128), triton.cdiv(V, 32))](g, arg, h, de, B, T, V, D, 32, 128)
        return dh.to(h.dtype), de.to(e.dtype), None


def fused_max_head(h, e, keep):
    """(B,T,D), (V,D), (B,T) to (B,V); D a multiple of 128."""
    return FusedMaxHead.apply(h, e, keep)
