#!/usr/bin/env python3
"""One side of one case of bench_gpu.py in PyTorch: prints one JSON object. Started by bench_gpu.py, in a
process of its own; needs torch, for steps transformers and peft.

    bench_gpu_torch.py CASE SIDE [--device cuda|cpu] [--tiny] [--samples N]

Times are medians of CUDA events (on a CPU of the host's clock) after three warm-ups, on random numbers.
"""
import argparse
import json
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Side:
    def __init__(self, args):
        self.args, self.device = args, torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.samples, self.warmup = (args.samples, 3) if not args.tiny else (2, 1)
        torch.manual_seed(0)

    def shape(self, full, tiny):
        return tiny if self.args.tiny else full

    def normal(self, *dims, scale=1.0, grad=False):
        x = torch.randn(*dims, device=self.device, dtype=torch.float32 if not self.cuda else self.dtype) * scale
        return x.to(self.dtype).requires_grad_(grad)

    def measure(self, work, tokens):
        """Seconds a call, and memory beyond what was there before."""
        for _ in range(self.warmup):
            work()
        before = 0
        if self.cuda:
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(self.samples):
            if self.cuda:
                first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                first.record()
                work()
                last.record()
                torch.cuda.synchronize()
                seconds.append(first.elapsed_time(last) * 1e-3)
            else:
                start = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - start)
        seconds.sort()
        n = len(seconds)
        row = {"seconds": statistics.median(seconds), "low": seconds[n // 4], "high": seconds[n - 1 - n // 4],
               "samples": n, "tokens": tokens}
        if self.cuda:
            row["transient_mb"] = (torch.cuda.max_memory_allocated() - before) * 1e-6
            row["peak_mb"] = torch.cuda.max_memory_allocated() * 1e-6
            row["reserved_mb"] = torch.cuda.max_memory_reserved() * 1e-6
        return row

    def largest(self, work, size, least):
        """work(size) at the largest of size, size/2, ... that memory allows."""
        while True:
            try:
                return work(size)
            except torch.cuda.OutOfMemoryError:
                pass  # outside of the handler, so that its frames let go of their tensors
            if size // 2 < least:
                raise SystemExit("bench_gpu_torch.py: not even %d fits" % least)
            size //= 2
            torch.cuda.empty_cache()


# ---- the head: forms of it as they are published ----

def tevatron_form(logits, mask):
    """Maximum before the logarithm; the mask is added, which promotes to float32."""
    masked = logits + (1 - mask.float()).unsqueeze(-1) * -1e4
    return torch.log1p(torch.relu(masked.max(dim=1).values))


def naver_form(logits, mask):
    return torch.max(torch.log(1 + torch.relu(logits)) * mask.unsqueeze(-1), dim=1).values


def sentence_transformers_form():
    try:  # since 6.0
        from sentence_transformers.sparse_encoder.modules import SpladePooling
    except ImportError:
        from sentence_transformers.sparse_encoder.models import SpladePooling
    pooling = SpladePooling(pooling_strategy="max")

    def form(logits, mask):
        return pooling({"token_embeddings": logits, "attention_mask": mask})["sentence_embedding"]
    return form


def head_of(side):
    """A function (h (B,T,D), e (V,D), mask) to weights (B,V)."""
    if side.args.side == "triton":
        return __import__("bench_gpu_triton").fused_max_head
    name = side.args.side.rsplit("-", 1)[0]
    form = {"tevatron": tevatron_form, "naver": naver_form}.get(name) or sentence_transformers_form()

    def head(h, e, mask):
        return form(h @ e.t(), mask)
    return torch.compile(head) if side.args.side.endswith("-compile") else head


def bench_head(side, backward):
    D, V, T = side.shape((2048, 128256, 128), (32, 97, 5))
    head = head_of(side)

    def at(B):
        h, e = side.normal(B, T, D, grad=backward), side.normal(V, D, scale=0.02, grad=backward)
        mask = torch.ones(B, T, device=side.device, dtype=torch.int64)
        # The gradient of one in ten weights is not 0, as after training.
        dw = (torch.rand(B, V, device=side.device) < 0.1).to(side.dtype) * 0.01

        def work():
            if not backward:
                with torch.no_grad():
                    return head(h, e, mask)
            h.grad = e.grad = None
            w = head(h, e, mask)
            return w.backward(dw.to(w.dtype))
        return side.measure(work, B * T)
    return side.largest(at, side.shape(512, 4), 2)


def bench_spmm(side):
    """dh = dz e with dz in CSR: (tokens x vocabulary) with one entry for a (text, term), by cuSPARSE."""
    D, V, T, B = side.shape((2048, 128256, 128, 512), (32, 97, 5, 3))
    density = float(side.args.side.rsplit("-", 1)[1])
    e = side.normal(V, D, scale=0.02)
    rows, columns = [], []
    for b in range(B):
        term = torch.nonzero(torch.rand(V, device=side.device) < density).flatten()
        rows.append(b * T + torch.randint(T, term.shape, device=side.device))
        columns.append(term)
    rows, columns = torch.cat(rows), torch.cat(columns)
    values = torch.randn(rows.shape, device=side.device)
    wide = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (B * T, V)).coalesce().to_sparse_csr()
    # Indices of 32 bits, the faster ones.
    dz = torch.sparse_csr_tensor(wide.crow_indices().int(), wide.col_indices().int(), wide.values().to(side.dtype),
                                 size=(B * T, V))
    return side.measure(lambda: dz @ e, B * T)


def bench_losses(side):
    """Both adaptation losses as written in their definition, the head frozen."""
    D, V, N = side.shape((2048, 128256, 16384), (32, 97, 15))

    def losses(h, e, target):
        z = (h @ e.t()).float()
        return F.cross_entropy(z, target) + F.cross_entropy(torch.log1p(torch.relu(z)), target)
    form = torch.compile(losses) if side.args.side.endswith("-compile") else losses

    def at(n):
        h, e = side.normal(n, D, grad=True), side.normal(V, D, scale=0.02)
        target = torch.randint(V, (n,), device=side.device)

        def work():
            h.grad = None
            form(h, e, target).backward()
        return side.measure(work, n)
    return side.largest(at, N, 8)


def bench_attention(side):
    """SDPA of equal texts, rotation not counted; both directions in one time, forward apart."""
    B, T, H, G, E = side.shape((512, 128, 32, 8, 64), (3, 5, 4, 2, 8))
    from torch.nn.attention import SDPBackend, sdpa_kernel
    backend = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
               "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}[side.args.side.split("-")[1]]
    q = side.normal(B, H, T, E, grad=True)
    k, v = side.normal(B, G, T, E, grad=True), side.normal(B, G, T, E, grad=True)
    d_o = side.normal(B, H, T, E)

    # The one that knows no groups gets each key and value as often as it is needed.
    grouped = not side.args.side.endswith("efficient")

    def forward():
        keys, values = (k, v) if grouped else (x.repeat_interleave(H // G, dim=1) for x in (k, v))
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, keys, values, enable_gqa=grouped)

    def both():
        q.grad = k.grad = v.grad = None
        forward().backward(d_o)
    with torch.no_grad():
        alone = side.measure(forward, B * T)
    row = side.measure(both, B * T)
    row["forward_seconds"] = alone["seconds"]
    return row


# ---- steps ----

def build_model(side, toy, lora):
    from transformers import LlamaConfig, LlamaForCausalLM
    sizes = dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                 num_key_value_heads=8, vocab_size=128256)
    if toy:
        sizes = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=8,
                     num_key_value_heads=8, vocab_size=32768)
    if side.args.tiny:
        sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, vocab_size=97)
    config = LlamaConfig(max_position_embeddings=512, tie_word_embeddings=True, attn_implementation="sdpa", **sizes)
    torch.set_default_dtype(side.dtype)
    with side.device:
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    if lora:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, bias="none",
                                                 target_modules=MATRICES))
    return model.train(), sizes["vocab_size"]


def draw(side, count, real, padded, vocab):
    """ids and mask of texts of `real` tokens, in rows of `padded`."""
    ids = torch.randint(vocab, (count, padded), device=side.device)
    mask = (torch.arange(padded, device=side.device) < real).long().expand(count, padded)
    return ids, mask


class Step:
    """The contrastive step: Tevatron's head, InfoNCE over all documents, FLOPS terms, AdamW. Where the whole
    batch does not fit, cached gradients (GradCache) by micro-batches."""

    def __init__(self, side, toy, lora, compiled):
        model, self.vocab = build_model(side, toy, lora)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, weight_decay=0.0, fused=side.cuda)
        forward = lambda ids, mask: tevatron_form(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, mask)
        self.represent = torch.compile(forward) if compiled else forward

    def loss(self, q, d):
        group = d.shape[0] // q.shape[0]
        positive = torch.arange(q.shape[0], device=q.device) * group
        scores = q.float() @ d.float().t() / 20.0
        flops = (q.float().mean(0) ** 2).sum() + (d.float().mean(0) ** 2).sum()
        return F.cross_entropy(scores, positive) + 1e-3 * flops

    def run(self, queries, documents, micro):
        """micro: documents computed at once; all of them: no caching."""
        batches = [queries] + [tuple(t[i:i + micro] for t in documents) for i in range(0, len(documents[0]), micro)]
        if len(batches) == 2:
            self.loss(self.represent(*batches[0]), self.represent(*batches[1])).backward()
        else:
            with torch.no_grad():
                cached = [self.represent(*batch) for batch in batches]
            q, d = cached[0].requires_grad_(), torch.cat(cached[1:]).requires_grad_()
            self.loss(q, d).backward()
            gradients = [q.grad] + list(d.grad.split(micro))
            for batch, gradient in zip(batches, gradients):
                self.represent(*batch).backward(gradient)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def bench_step(side, toy=False, lora=True, padded=True):
    """Texts of 12 and 80 tokens, in rows of 32 and 128 where padded."""
    Q, P = side.shape((8, 32) if toy else (64, 512), (2, 4))
    lengths = side.shape((16, 60) if toy else (12, 80), (3, 5))
    rows = side.shape((32, 128), (4, 8)) if padded else lengths
    step = Step(side, toy, lora, side.args.side.endswith("-compile"))
    queries, documents = draw(side, Q, lengths[0], rows[0], step.vocab), draw(side, P, lengths[1], rows[1], step.vocab)

    def at(micro):
        step.optimizer.zero_grad()
        row = side.measure(lambda: step.run(queries, documents, micro), Q * lengths[0] + P * lengths[1])
        row["micro_batch"] = micro
        row["cached_gradients"] = micro < P
        return row
    return side.largest(at, P, 1)


def bench_largest(side):
    """Most queries of a step with 16 documents each, all of 128 tokens, nothing computed twice."""
    T = side.shape(128, 5)
    step = Step(side, False, True, False)

    def fits(Q):
        try:
            step.optimizer.zero_grad()
            texts = [draw(side, n, T, T, step.vocab) for n in (Q, 16 * Q)]
            step.run(*texts, 16 * Q)
            return True
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            if side.cuda:
                torch.cuda.empty_cache()
    good, bad = 0, 1
    while bad <= side.shape(4096, 2) and fits(bad):
        good, bad = bad, 2 * bad
    while not side.args.tiny and bad - good > 1 and 16 * (bad - good) > good:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return {"queries": good}


CASES = {"K2": lambda s: bench_head(s, False), "K4": lambda s: bench_head(s, True), "K6": bench_spmm,
         "K7": bench_losses, "K8": bench_attention, "S2": bench_step,
         "S3": lambda s: bench_step(s, padded=False),
         "S4": lambda s: bench_step(s, lora=False, padded=s.args.side.startswith("padded")),
         "S8": lambda s: bench_step(s, toy=True, lora=False, padded=False), "M1": bench_largest}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("side")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--samples", type=int, default=10)
    args = parser.parse_args()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    side = Side(args)
    row = CASES[args.case](side)
    row.update({"case": args.case, "side": args.side, "torch": torch.__version__, "dtype": str(side.dtype)[6:],
                "device": torch.cuda.get_device_name() if side.cuda else "cpu", "tiny": args.tiny})
    print(json.dumps(row))


if __name__ == "__main__":
    main()
