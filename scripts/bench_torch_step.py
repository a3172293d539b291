#!/usr/bin/env python3
"""One side of scripts/bench_cpu.sh: the contrastive step as PyTorch users write it.

transformers' LlamaForCausalLM with SDPA, padded batches, logits of the whole batch, maximum before
log1p(relu()), InfoNCE over all documents, FLOPS terms, backward, gradient clipping, AdamW. With
--lora the model is wrapped by PEFT (r=16 on all seven matrices). Prints one JSON object.

All texts have the full length, so that padding costs PyTorch nothing here.
"""
import argparse
import json
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def peak_mb():
    """The program's own high-water mark; getrusage would count what the process was before exec."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024.0


def build(args):
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=args.hidden, intermediate_size=4 * args.hidden,
                         num_hidden_layers=args.layers, num_attention_heads=args.hidden // 32,
                         num_key_value_heads=args.hidden // 32, vocab_size=args.vocab,
                         max_position_embeddings=512, tie_word_embeddings=True,
                         attn_implementation="sdpa")
    model = LlamaForCausalLM(config).float()
    if args.lora:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, bias="none",
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                            "down_proj"]))
    return model.train()


def represent(model, ids):
    logits = model(input_ids=ids, use_cache=False).logits
    return torch.log1p(torch.relu(logits.max(dim=1).values))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--query-tokens", type=int, default=24)
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--document-tokens", type=int, default=96)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    model = build(args)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    group = args.documents // args.queries
    positive = torch.arange(args.queries) * group
    seconds = []
    for step in range(args.warmup + args.steps):
        q_ids = torch.randint(args.vocab, (args.queries, args.query_tokens), generator=generator)
        d_ids = torch.randint(args.vocab, (args.documents, args.document_tokens), generator=generator)
        start = time.perf_counter()
        q, d = represent(model, q_ids), represent(model, d_ids)
        loss = torch.nn.functional.cross_entropy(q @ d.T / 20.0, positive)
        loss = loss + 1e-3 * (q.mean(0) ** 2).sum() + 1e-3 * (d.mean(0) ** 2).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)
    tokens = args.queries * args.query_tokens + args.documents * args.document_tokens
    seconds.sort()
    median = seconds[len(seconds) // 2]
    print(json.dumps({"side": "torch", "version": torch.__version__, "vocab": args.vocab,
                      "lora": args.lora, "tokens": tokens, "step_s": median,
                      "step_s_all": seconds, "tokens_per_s": tokens / median,
                      "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
