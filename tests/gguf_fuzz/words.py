"""The words of the format that a mutation may write: keys, architectures, tokenizers, tensors, and texts of all kinds.

A key's "%s" stands for the architecture, a tensor's "%d" for its layer. Which names there are is a fact about the
format; a name that a newer llama.cpp forgot, or one that it learned, does no harm here.
"""

from __future__ import annotations

KEYS = tuple(
    b"""
    general.type general.architecture general.quantization_version general.alignment general.file_type
    general.sampling.sequence general.sampling.top_k general.sampling.top_p general.sampling.min_p
    general.sampling.xtc_probability general.sampling.xtc_threshold general.sampling.temp
    general.sampling.penalty_last_n general.sampling.penalty_repeat general.sampling.mirostat
    general.sampling.mirostat_tau general.sampling.mirostat_eta general.name general.author general.version
    general.url general.description general.license general.source.url general.source.huggingface.repository
    general.tensor_extra.name general.tensor_extra.prec_a4 %s.vocab_size %s.context_length %s.embedding_length
    %s.embedding_length_out %s.embedding_length_per_layer_input %s.features_length %s.block_count
    %s.leading_dense_block_count %s.attn_res.block_size %s.activation.situ_beta %s.activation.situ_linear_beta
    %s.feed_forward_length %s.expert_feed_forward_length %s.expert_shared_feed_forward_length
    %s.expert_chunk_feed_forward_length %s.swiglu_clamp_exp %s.swiglu_clamp_shexp %s.use_parallel_residual
    %s.tensor_data_layout %s.expert_count %s.expert_used_count %s.expert_shared_count %s.expert_group_count
    %s.expert_group_used_count %s.expert_weights_scale %s.expert_weights_norm %s.expert_latent_length
    %s.expert_gating_func %s.expert_group_scale %s.experts_per_group %s.moe_every_n_layers %s.moe_latent_size
    %s.nextn_predict_layers %s.n_deepstack_layers %s.deepstack_mapping %s.hidden_activation %s.pooling_type
    %s.logit_scale %s.decoder_start_token_id %s.decoder_block_count %s.attn_logit_softcapping
    %s.router_logit_softcapping %s.final_logit_softcapping %s.swin_norm %s.rescale_every_n_layers
    %s.time_mix_extra_dim %s.time_decay_extra_dim %s.residual_scale %s.embedding_scale %s.adapters.count
    %s.adapters.token_ids_activate %s.adapters.token_ids_substitute %s.adapters.lora_rank %s.adapters.router_gain
    %s.token_shift_count %s.interleave_moe_layer_step %s.full_attention_interval %s.num_loops
    %s.skip_loop_final_norm %s.hrm.layers_per_stack %s.hrm.h_cycles %s.hrm.l_cycles %s.hrm.prefix_lm
    %s.attention.head_count %s.attention.head_count_kv %s.attention.max_alibi_bias %s.attention.clamp_kqv
    %s.attention.key_length %s.attention.value_length %s.attention.layer_norm_epsilon
    %s.attention.layer_norm_rms_epsilon %s.attention.group_norm_epsilon %s.attention.group_norm_groups
    %s.attention.causal %s.attention.q_lora_rank %s.attention.kv_lora_rank %s.attention.decay_lora_rank
    %s.attention.iclr_lora_rank %s.attention.value_residual_mix_lora_rank %s.attention.gate_lora_rank
    %s.attention.relative_buckets_count %s.attention.sliding_window %s.attention.sliding_window_pattern
    %s.attention.rope_pattern %s.attention.scale %s.attention.output_scale %s.attention.value_scale
    %s.attention.temperature_length %s.attention.temperature_scale %s.attention.key_length_mla
    %s.attention.value_length_mla %s.attention.key_length_swa %s.attention.value_length_swa
    %s.attention.key_length_mla_swa %s.attention.value_length_mla_swa %s.attention.kv_lora_rank_swa
    %s.attention.indexer.head_count %s.attention.indexer.key_length %s.attention.indexer.top_k
    %s.attention.indexer.block_size %s.attention.indexer.local_blocks %s.attention.indexer.types
    %s.attention.indexer.kpool %s.attention.indexer.kpool_select_tail %s.attention.output_group_count
    %s.attention.output_lora_rank %s.attention.compress_rope_freq_base %s.attention.compress_ratios
    %s.attention.shared_kv_layers %s.attention.recurrent_layers %s.hyper_connection.count
    %s.hyper_connection.sinkhorn_iterations %s.hyper_connection.epsilon %s.hyper_connection.magnitude
    %s.hyper_connection.low_rank %s.ple.layers %s.ple.ngram_size %s.ple.heads_per_ngram %s.ple.conv_kernel
    %s.ple.layer_multipliers %s.ple.head_offsets %s.ple.head_vocab_sizes %s.ple.eos_token_id %s.ple.image_token_id
    %s.hash_layer_count %s.rope.dimension_count %s.rope.dimension_count_swa %s.rope.dimension_sections
    %s.rope.freq_base %s.rope.freq_base_swa %s.rope.scale_linear %s.rope.scaling.type %s.rope.scaling.factor
    %s.rope.scaling.alpha %s.rope.scaling.attn_factor %s.rope.scaling.original_context_length
    %s.rope.scaling.finetuned %s.rope.scaling.yarn_log_multiplier %s.rope.scaling.yarn_ext_factor
    %s.rope.scaling.yarn_attn_factor %s.rope.scaling.yarn_beta_fast %s.rope.scaling.yarn_beta_slow split.no
    split.count split.tensors.count %s.ssm.conv_kernel %s.ssm.inner_size %s.ssm.state_size %s.ssm.time_step_rank
    %s.ssm.group_count %s.ssm.dt_b_c_rms %s.kda.head_dim %s.kda.safe_gate %s.kda.gate_lower_bound %s.wkv.head_size
    %s.posnet.embedding_length %s.posnet.block_count %s.convnext.embedding_length %s.convnext.block_count
    %s.classifier.output_labels %s.classifier.pooling_type %s.target_layers %s.target_hidden_size
    %s.norm_before_residual %s.norm_before_fc %s.block_size %s.conv_kernel_size %s.conv_group_size
    %s.selector_rank %s.selector_top_k %s.shortconv.l_cache %s.dense_2_feat_in %s.dense_2_feat_out
    %s.dense_3_feat_in %s.dense_3_feat_out tokenizer.ggml.model tokenizer.ggml.pre tokenizer.ggml.tokens
    tokenizer.ggml.token_type tokenizer.ggml.token_type_count tokenizer.ggml.scores tokenizer.ggml.merges
    tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.eot_token_id
    tokenizer.ggml.eom_token_id tokenizer.ggml.unknown_token_id tokenizer.ggml.seperator_token_id
    tokenizer.ggml.padding_token_id tokenizer.ggml.cls_token_id tokenizer.ggml.mask_token_id
    tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token tokenizer.ggml.add_sep_token
    tokenizer.ggml.add_space_prefix tokenizer.ggml.remove_extra_whitespaces tokenizer.ggml.precompiled_charsmap
    tokenizer.huggingface.json tokenizer.rwkv.world tokenizer.chat_template tokenizer.ggml.normalizer.lowercase
    tokenizer.ggml.normalizer.strip_accents tokenizer.ggml.fim_pre_token_id tokenizer.ggml.fim_suf_token_id
    tokenizer.ggml.fim_mid_token_id tokenizer.ggml.fim_pad_token_id tokenizer.ggml.fim_rep_token_id
    tokenizer.ggml.fim_sep_token_id tokenizer.ggml.suppress_tokens adapter.type adapter.lora.alpha
    adapter.lora.task_name adapter.lora.prompt_prefix adapter.alora.invocation_tokens xielu.alpha_n xielu.alpha_p
    xielu.beta xielu.eps tokenizer.ggml.prefix_token_id tokenizer.ggml.suffix_token_id
    tokenizer.ggml.middle_token_id
    """.split()
)
ARCHITECTURES = tuple(
    b"""
    clip llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert modern-bert nomic-bert
    nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3
    qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp phi2 phi3 phimoe plamo plamo2 plamo3 codeshell
    orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma4-assistant gemma-embedding
    starcoder2 mamba mamba2 maple jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo olmo2 olmoe
    muse-glimmer openelm arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 chatglm glm4 glm4moe glm-dsa
    bitnet t5 t5encoder jais jais2 nemotron nemotron_h nemotron_h_moe exaone exaone4 exaone-moe rwkv6 rwkv6qwen2
    rwkv7 arwkv7 granite granitemoe granitehybrid graniteswitch granite_swa chameleon wavtokenizer-dec plm
    bailingmoe bailingmoe2 bailingmoe3 dots1 dots3note arcee afmoe laguna ernie4_5 ernie4_5-moe hunyuan-moe
    hunyuan-dense hunyuan_vl hy_v3 hy_v4 smollm3 gpt-oss lfm2 lfm2moe dream smallthinker llada llada-moe seed_oss
    grovemoe apertus minimax-01 hrm_text minimax-m2 minimax-m3 cogvlm rnd1 pangu-embedded mistral3 eagle3 dflash
    mistral4 paddleocr mimo2 step35 spark2_5 llama-embed maincoder kimi-linear kimi-k3 glm5-next talkie mellum
    nanbeige qwen3tts pockettts
    """.split()
)
PRE_TOKENIZERS = tuple(
    b"""
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
    deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon
    falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling granite-embed-multi-311m
    granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de jina-es jina-v1-en jina-v2-code
    jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna lfm2 llada-moe llama-bpe llama-v3
    llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral
    poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2
    starcoder superbpe talkie tekken tiny_aya trillion ufakzeka viking whitespace youtu
    """.split()
)
TOKENIZERS = (
    b"llama",
    b"gpt2",
    b"bert",
    b"t5",
    b"rwkv",
    b"plamo2",
    b"gemma4",
    b"none",
    b"no_vocab",
    b"test",
    b"hybriddna",
    b"whitespace",
)
TENSOR_NAMES = tuple(
    b"""
    token_embd.weight output_norm.weight token_embd_norm.weight output.weight rope_freqs.weight
    hrm.z_l_init.weight blk.%d.attn_norm.weight blk.%d.attn_q.weight blk.%d.attn_k.weight blk.%d.attn_v.weight
    blk.%d.attn_output.weight blk.%d.attn_rot_embd.weight blk.%d.ffn_gate_inp.weight blk.%d.ffn_norm.weight
    blk.%d.ffn_gate.weight blk.%d.ffn_down.weight blk.%d.ffn_up.weight blk.%d.ffn_gate_exps.weight
    blk.%d.ffn_gate_up_exps.weight blk.%d.ffn_down_exps.weight blk.%d.ffn_up_exps.weight
    blk.%d.post_attention_norm.weight blk.%d.attn_q_norm.weight blk.%d.attn_k_norm.weight blk.%d.attn_gate.weight
    blk.%d.post_ffw_norm.weight blk.%d.post_ffw_norm_1.weight blk.%d.post_ffw_norm_2.weight
    blk.%d.pre_ffw_norm_2.weight blk.%d.ffn_gate_shexp.weight blk.%d.ffn_up_shexp.weight
    blk.%d.ffn_down_shexp.weight blk.%d.exp_probs_b.weight blk.%d.exp_probs_b_vl.weight
    blk.%d.ffn_latent_down.weight blk.%d.ffn_latent_up.weight blk.%d.attn_norm_2.weight blk.%d.attn_qkv.weight
    blk.%d.layer_output_norm.weight blk.%d.layer_output_scale.weight blk.%d.attn_output_norm.weight
    position_embd.weight blk.%d.ffn.act.weight token_embd_norm.weight token_types.weight cls.weight
    cls.output.weight cls.norm.weight enc.output_norm.weight blk.%d.ffn_gate_inp_shexp.weight blk.%d.ssm_a.weight
    blk.%d.ssm_conv1d.weight blk.%d.ssm_dt.weight blk.%d.ssm_ba.weight blk.%d.ssm_alpha.weight
    blk.%d.ssm_in.weight blk.%d.ssm_norm.weight blk.%d.ssm_out.weight rope_factors_long.weight
    rope_factors_short.weight blk.%d.ssm_x.weight blk.%d.ssm_a.weight blk.%d.ssm_d.weight
    blk.%d.ssm_dt_norm.weight blk.%d.ssm_b_norm.weight blk.%d.ssm_c_norm.weight blk.%d.ssm_conv1d_q.weight
    blk.%d.ssm_conv1d_k.weight blk.%d.ssm_conv1d_v.weight blk.%d.ssm_f_a.weight blk.%d.ssm_f_b.weight
    blk.%d.ssm_beta.weight blk.%d.ssm_g_a.weight blk.%d.ssm_g.weight blk.%d.attn_res_score.weight
    blk.%d.ffn_res_score.weight output_res_score.weight blk.%d.ffn_routed_down.weight blk.%d.ffn_routed_up.weight
    blk.%d.ffn_routed_norm.weight blk.%d.ssm_g_b.weight blk.%d.ssm_norm.weight blk.%d.attn_q_a_norm.weight
    blk.%d.attn_kv_a_norm.weight blk.%d.attn_q_a.weight blk.%d.attn_q_b.weight blk.%d.attn_kv_a_mqa.weight
    blk.%d.attn_kv_b.weight blk.%d.attn_kv.weight blk.%d.attn_kv_a_norm.weight blk.%d.attn_output_a.weight
    blk.%d.attn_output_b.weight output_hc_fn.weight output_hc_base.weight output_hc_scale.weight
    output_hc_norm.weight output_hc_down.weight output_hc_up.weight blk.%d.hc_attn_fn.weight
    blk.%d.hc_attn_base.weight blk.%d.hc_attn_scale.weight blk.%d.hc_ffn_fn.weight blk.%d.hc_ffn_base.weight
    blk.%d.hc_ffn_scale.weight blk.%d.hc_attn_norm.weight blk.%d.hc_attn_down.weight blk.%d.hc_attn_up.weight
    blk.%d.hc_attn_inject.weight blk.%d.hc_ffn_norm.weight blk.%d.hc_ffn_down.weight blk.%d.hc_ffn_up.weight
    blk.%d.hc_ffn_inject.weight blk.%d.ple_key.weight blk.%d.ple_value.weight blk.%d.ple_norm_key.weight
    blk.%d.ple_norm_query.weight blk.%d.ple_norm_conv.weight blk.%d.ple_conv1d.weight
    blk.%d.attn_compressor_kv.weight blk.%d.attn_compressor_gate.weight blk.%d.attn_compressor_ape.weight
    blk.%d.attn_compressor_norm.weight per_layer_token_embd.weight per_layer_model_proj.weight
    per_layer_proj_norm.weight altup_unembd_proj.weight altup_proj.weight blk.%d.inp_gate.weight
    blk.%d.proj.weight blk.%d.post_norm.weight blk.%d.altup_correct_coef.weight blk.%d.altup_correct_scale.weight
    blk.%d.altup_predict_coef.weight blk.%d.altup_router.weight blk.%d.altup_router_norm.weight
    blk.%d.laurel_l.weight blk.%d.laurel_r.weight blk.%d.laurel_post_norm.weight dense_2.weight dense_3.weight
    blk.%d.ffn_norm_exps.weight blk.%d.attn_k_b.weight blk.%d.attn_v_b.weight nextn.pre_projection.weight
    nextn.post_projection.weight blk.%d.nextn.eh_proj.weight blk.%d.nextn.embed_tokens.weight
    blk.%d.nextn.enorm.weight blk.%d.nextn.hnorm.weight blk.%d.nextn.shared_head_head.weight
    blk.%d.nextn.shared_head_norm.weight blk.%d.attn_sub_norm.weight blk.%d.ffn_sub_norm.weight
    dec.output_norm.weight dec.blk.%d.attn_norm.weight dec.blk.%d.attn_q.weight dec.blk.%d.attn_k.weight
    dec.blk.%d.attn_v.weight dec.blk.%d.attn_o.weight dec.blk.%d.attn_rel_b.weight
    dec.blk.%d.cross_attn_norm.weight dec.blk.%d.cross_attn_q.weight dec.blk.%d.cross_attn_k.weight
    dec.blk.%d.cross_attn_v.weight dec.blk.%d.cross_attn_o.weight dec.blk.%d.cross_attn_rel_b.weight
    dec.blk.%d.ffn_norm.weight dec.blk.%d.ffn_gate.weight dec.blk.%d.ffn_down.weight dec.blk.%d.ffn_up.weight
    enc.blk.%d.attn_norm.weight enc.blk.%d.attn_q.weight enc.blk.%d.attn_k.weight enc.blk.%d.attn_v.weight
    enc.blk.%d.attn_o.weight enc.blk.%d.attn_rel_b.weight enc.blk.%d.ffn_norm.weight enc.blk.%d.ffn_gate.weight
    enc.blk.%d.ffn_down.weight enc.blk.%d.ffn_up.weight blk.%d.time_mix_w1.weight blk.%d.time_mix_w2.weight
    blk.%d.time_mix_lerp_x.weight blk.%d.time_mix_lerp_w.weight blk.%d.time_mix_lerp_k.weight
    blk.%d.time_mix_lerp_v.weight blk.%d.time_mix_lerp_r.weight blk.%d.time_mix_lerp_g.weight
    blk.%d.time_mix_lerp_fused.weight blk.%d.time_mix_first.weight blk.%d.time_mix_decay.weight
    blk.%d.time_mix_decay_w1.weight blk.%d.time_mix_decay_w2.weight blk.%d.time_mix_key.weight
    blk.%d.time_mix_value.weight blk.%d.time_mix_receptance.weight blk.%d.time_mix_gate.weight
    blk.%d.time_mix_ln.weight blk.%d.time_mix_output.weight blk.%d.channel_mix_lerp_k.weight
    blk.%d.channel_mix_lerp_r.weight blk.%d.channel_mix_key.weight blk.%d.channel_mix_value.weight
    blk.%d.channel_mix_receptance.weight blk.%d.time_mix_w0.weight blk.%d.time_mix_a0.weight
    blk.%d.time_mix_a1.weight blk.%d.time_mix_a2.weight blk.%d.time_mix_v0.weight blk.%d.time_mix_v1.weight
    blk.%d.time_mix_v2.weight blk.%d.time_mix_g1.weight blk.%d.time_mix_g2.weight blk.%d.time_mix_k_k.weight
    blk.%d.time_mix_k_a.weight blk.%d.time_mix_r_k.weight conv1d.weight convnext.%d.dw.weight
    convnext.%d.norm.weight convnext.%d.pw1.weight convnext.%d.pw2.weight convnext.%d.gamma.weight
    posnet.%d.conv1.weight posnet.%d.conv2.weight posnet.%d.norm.weight posnet.%d.norm1.weight
    posnet.%d.norm2.weight posnet.%d.attn_norm.weight posnet.%d.attn_q.weight posnet.%d.attn_k.weight
    posnet.%d.attn_v.weight posnet.%d.attn_output.weight blk.%d.attn_sinks.weight blk.%d.shortconv.conv.weight
    blk.%d.shortconv.in_proj.weight blk.%d.shortconv.out_proj.weight blk.%d.ffn_gate_chexps.weight
    blk.%d.ffn_down_chexps.weight blk.%d.ffn_up_chexps.weight blk.%d.vis_attn_qkv.weight
    blk.%d.vis_attn_output.weight blk.%d.vis_gate.weight blk.%d.vis_down.weight blk.%d.vis_up.weight
    blk.%d.indexer.k_norm.weight blk.%d.indexer.proj.weight blk.%d.indexer.attn_k.weight
    blk.%d.indexer.attn_q_b.weight blk.%d.indexer.q_proj.weight blk.%d.indexer.k_proj.weight
    blk.%d.indexer.q_norm.weight blk.%d.indexer_compressor_kv.weight blk.%d.indexer_compressor_gate.weight
    blk.%d.indexer_compressor_ape.weight blk.%d.indexer_compressor_norm.weight
    blk.%d.indexer_compressor_gate.weight blk.%d.indexer_compressor_ape.weight blk.%d.ffn_gate_tid2eid.weight
    masked_embd_centroids.weight masked_embd_ordering.weight fc.weight d2t.weight markov_w1.weight
    markov_w2.weight conf_proj.weight blk.%d.attn_conv_base.weight blk.%d.attn_conv_proj.weight
    blk.%d.ffn_conv_base.weight blk.%d.ffn_conv_proj.weight selector_predecessor.weight selector_successor.weight
    selector_hidden.weight
    """.split()
)
TEXTS = (
    b"",
    b" ",
    b"a",
    b"x y",
    b" x",
    b"\n",
    b"\0",
    b"a\0b",
    b"<0x0A>",
    b"<0x00>",
    b"<0xZZ>",
    b"<0x",
    b"\xff",
    b"\xf0\x9f\x98",
    b"\xed\xa0\x80",
    b"x" * 300,
    b"x" * 5000,
    b"yarn",
    b"longrope",
    b"linear",
    b"none",
    b"nonsense",
    b"1",
    b"%s%s%n",
    b"{{ messages }}",
    b"</s>",
    b"<|im_end|>",
    b"<unk>",
    "\u2581".encode(),
    "\u0120".encode(),
    b"\\",
    b"'\\x",
    b"b'",
    b"0",
)
