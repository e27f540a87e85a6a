/* fields.c - see fields.h: the table itself, and its printing. */
#include "common/llm/fields.h"

#include <pthread.h>

enum {
	OC = 1 << FORM_OPENAI_CHAT, OT = 1 << FORM_OPENAI_COMPLETE, LC = 1 << FORM_OLLAMA_CHAT, LG = 1 << FORM_OLLAMA_GENERATE,
	NA = 1 << FORM_NATIVE, OP = 1 << FORM_OPTIONS, OM = 1 << FORM_OPENAI_MESSAGE, LM = 1 << FORM_OLLAMA_MESSAGE,
	AN = 1 << FORM_ANTHROPIC, AM = 1 << FORM_ANTHROPIC_MESSAGE, AB = 1 << FORM_ANTHROPIC_BLOCK, AT = 1 << FORM_ANTHROPIC_TOOL,
	AK = 1 << FORM_ANTHROPIC_THINKING, AO = 1 << FORM_ANTHROPIC_OUTPUT,
	OE = 1 << FORM_OPENAI_EMBED, LE = 1 << FORM_OLLAMA_EMBED, LO = 1 << FORM_OLLAMA_EMBED_OLD,
	OPENAI = OC | OT, OLLAMA = LC | LG,
};
enum {
	BOOL = 1 << JSON_FALSE | 1 << JSON_TRUE, NUM = 1 << JSON_NUMBER, TEXT = 1 << JSON_STRING, LIST = 1 << JSON_ARRAY,
	OBJ = 1 << JSON_OBJECT, ANY = BOOL | NUM | TEXT | LIST | OBJ,
};

/* Forms that reach the first three kinds alone. */
#define ALL(name) { name, name, name }
#define LLAMACPP_ONLY(name) { name, NULL, NULL }
#define NOT_GENERIC(name) { name, NULL, name }
#define NOWHERE { NULL, NULL, NULL }
#define NO_EFFECT { IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED }

/* Columns: name, meaning to the code, forms, types, {llama.cpp, OpenAI-style, Ollama, Anthropic, Gemini, RunPod}, note. */
static const struct field table[] = {
	{ "model", F_MODEL, OPENAI | OLLAMA | NA | AN | OE | LE | LO, TEXT, { "model", "model", "model", "model", "(the path)", "model" }, "The backend's own name of the chosen model." },
	{ "messages", F_MESSAGES, OC | LC, LIST, { "messages", "messages", "messages", "messages", "contents", "messages" }, "Roles, text, images, tool calls, tool results and thinking are mapped; `developer` becomes `system` for Ollama. For Anthropic and Gemini system messages leave the row (`system`, `systemInstruction`), and turns of one role that follow each other are one." },
	{ "messages", F_MESSAGES, AN, LIST, ALL("messages"), "Blocks become messages: results of tools first, then the rest of the turn; turns of one role that follow each other are joined. A last turn of the assistant is sent as it is, for the backend to continue." },
	{ "prompt", F_PROMPT, OT, TEXT | LIST, ALL("prompt"), "One text for Ollama; token ids and several prompts are refused there, several prompts in a stream also for llama.cpp." },
	{ "prompt", F_PROMPT, LG | NA, TEXT, ALL("messages"), "The user message; with `raw` the prompt of /v1/completions." },
	{ "stream", F_STREAM, OPENAI | OLLAMA | NA | AN, BOOL, { "stream", "stream", "stream", "stream", "(the path)", "stream" }, "" },
	{ "stream_options", F_STREAM_OPTIONS, OPENAI, OBJ, { "stream_options", "stream_options", "stream_options", "(here)", "(here)", "stream_options" }, "`include_usage` is added where it is missing and its chunk taken out again, but not before llama.cpp, which counts in `timings`; for Ollama it decides whether we write that chunk. Anthropic and Gemini count always." },
	{ "system", F_SYSTEM, LG, TEXT, ALL("messages"), "The first message." },
	{ "system", F_SYSTEM, AN, TEXT | LIST, ALL("messages"), "The first message; a line end between its blocks." },
	{ "context", F_CONTEXT_TEXT, NA, TEXT, ALL("messages"), "Stands in front of the prompt, an empty line between them." },
	{ "context", F_CONTEXT_IDS, LG, LIST, { NULL, NULL, "context" }, "Token ids of an Ollama model mean nothing elsewhere; an empty list is fine." },
	{ "template", F_TEMPLATE, LG, TEXT, { NULL, NULL, "template" }, "The template of the model is used; an empty one is fine." },
	{ "suffix", F_SUFFIX, OT | LG, TEXT, { "/infill", NULL, "suffix" }, "Fill in the middle; at llama.cpp by /infill, because its /v1/completions takes no notice of a suffix." },
	{ "raw", F_RAW, LG, BOOL, ALL("/v1/completions"), "The prompt without a template." },
	{ "images", F_IMAGES, LG, LIST, ALL("image_url"), "Base64 becomes a data URI in the user message, and back." },
	{ "options", F_OPTIONS, OLLAMA | NA, OBJ, ALL("(see options)"), "Each option has a row of its own." },
	{ "tools", F_TOOLS, OC | LC, LIST, { "tools", "tools", "tools", "tools", "tools[].functionDeclarations", "tools" }, "Functions only, where converted." },
	{ "tools", F_TOOLS, AN, LIST, ALL("tools"), "Tools of the client (no `type`, or `custom`); those a vendor's server would run are refused." },
	{ "tool_choice", F_TOOL_CHOICE, AN, OBJ, { "tool_choice", "tool_choice", "tools" }, "`any` is `required`; `none` leaves the tools out. Ollama lets the model choose: `any`, `tool` and `disable_parallel_tool_use` are refused there." },
	{ "tool_choice", F_TOOL_CHOICE, OC, TEXT | OBJ, { "tool_choice", "tool_choice", "tools", "tool_choice", "toolConfig", "tool_choice" }, "Ollama has no such field: `auto` is what it does, `none` leaves the tools out, `required` and a named tool are refused. Anthropic and Gemini have each of these, but not `allowed_tools`." },
	{ "parallel_tool_calls", F_PARALLEL_TOOLS, OC, BOOL, { "parallel_tool_calls", "parallel_tool_calls", NULL, "tool_choice.disable_parallel_tool_use", NULL, "parallel_tool_calls" }, "`true` is what Ollama does; `false` is refused. Gemini has no such field either." },
	{ "functions", F_NONE, OC, LIST, { "functions", "functions", NULL, NULL, NULL, "functions" }, "Deprecated; use `tools`." },
	{ "function_call", F_NONE, OC, TEXT | OBJ, { "function_call", "function_call", NULL, NULL, NULL, "function_call" }, "Deprecated; use `tool_choice`." },
	{ "response_format", F_RESPONSE_FORMAT, OC, OBJ, { "format", "format", "format", "output_config.format", "generationConfig.responseJsonSchema", "response_format" }, "`json_object` is Ollama's \"json\", `json_schema` its schema. Anthropic has schemas only: `json_object` is refused there." },
	{ "format", F_FORMAT, OLLAMA | NA, TEXT | OBJ, ALL("response_format"), "\"json\" is `json_object`, a schema is `json_schema`: `strict` where its objects are closed and have no optional members, as OpenAI asks of those." },
	{ "stop", F_STOP, OPENAI | NA | OP, TEXT | LIST, { "stop", "stop", "stop", "stop_sequences", "stopSequences", "stop" }, "" },
	{ "stop_sequences", F_STOP, AN, LIST, ALL("stop"), "" },
	{ "max_tokens", F_MAX_TOKENS, OPENAI | NA | AN, NUM, { "max_tokens", "max_tokens", "num_predict", "max_tokens", "maxOutputTokens", "max_tokens" }, "Anthropic needs one, and the worker of RunPod takes 16 for none: where the request has none it is the most that the model can answer, if that is known, else 4096." },
	{ "max_completion_tokens", F_MAX_COMPLETION_TOKENS, OC, NUM, { "max_tokens", "max_tokens", "num_predict", "max_tokens", "maxOutputTokens", "max_completion_tokens" }, "Wins over `max_tokens`." },
	{ "num_predict", F_MAX_TOKENS, OP, NUM, { "max_tokens", "max_tokens", "num_predict" }, "Below 0 = no limit: left out." },
	{ "logprobs", F_LOGPROBS, OC | OLLAMA, BOOL, { "logprobs", "logprobs", "logprobs", NULL, NULL, "logprobs" }, "" },
	{ "logprobs", F_LOGPROBS_N, OT, NUM, ALL("logprobs"), "A number in /v1/completions: `logprobs` and `top_logprobs` of Ollama." },
	{ "top_logprobs", F_TOP_LOGPROBS, OC | OLLAMA, NUM, { "top_logprobs", "top_logprobs", "top_logprobs", NULL, NULL, "top_logprobs" }, "" },
	{ "think", F_THINK, OLLAMA, BOOL | TEXT, ALL("reasoning_effort"), "For llama.cpp also `chat_template_kwargs.enable_thinking`; `true` is \"medium\" at an OpenAI-style server." },
	{ "reasoning_effort", F_REASONING_EFFORT, OC, TEXT, { "reasoning_effort", "reasoning_effort", "think", "thinking", "thinkingConfig", "reasoning_effort" }, "none is false; minimal and low are \"low\"; xhigh and max are \"max\". For Anthropic and Gemini tokens to think with: minimal and low 1024, medium 8192, high and above 24576. Anthropic: at most half of `max_tokens`; ignored where that is less than 1024, and after the result of a tool, because the thoughts that led there cannot come back through this API." },

	{ "thinking", F_THINKING_CONFIG, AN, OBJ, { "chat_template_kwargs", "reasoning_effort", "think" }, "Absent: what the model does by itself. A model that is known not to think is asked without it." },
	{ "output_config", F_OUTPUT_CONFIG, AN, OBJ, ALL("response_format"), "" },

	/* Sampling: plain values. Native requests take the common ones at the top level too. */
	{ "temperature", F_PLAIN, OPENAI | NA | OP | AN, NUM, { "temperature", "temperature", "temperature", "temperature", "temperature", "temperature" }, "Above 1 it is refused for Anthropic; RunPod gets 1 where none is given." },
	{ "top_p", F_PLAIN, OPENAI | NA | OP | AN, NUM, { "top_p", "top_p", "top_p", "top_p", "topP", "top_p" }, "" },
	{ "seed", F_PLAIN, OPENAI | NA | OP, NUM, { "seed", "seed", "seed", IGNORED, "seed", "seed" }, "Best effort where there is one." },
	{ "presence_penalty", F_PLAIN, OPENAI | OP, NUM, { "presence_penalty", "presence_penalty", "presence_penalty", NULL, "presencePenalty", "presence_penalty" }, "0 is fine everywhere." },
	{ "frequency_penalty", F_PLAIN, OPENAI | OP, NUM, { "frequency_penalty", "frequency_penalty", "frequency_penalty", NULL, "frequencyPenalty", "frequency_penalty" }, "0 is fine everywhere." },
	{ "top_k", F_PLAIN, OPENAI | OP | AN, NUM, { "top_k", NULL, "top_k", "top_k", "topK", "top_k" }, "Not in OpenAI's API: refused for an OpenAI-style server when the client spoke another dialect." },
	{ "min_p", F_PLAIN, OPENAI | OP, NUM, { "min_p", NULL, "min_p", NULL, NULL, "min_p" }, "" },
	{ "typical_p", F_PLAIN, OPENAI | OP, NUM, { "typical_p", NULL, "typical_p", NULL, NULL, "typical_p" }, "" },
	{ "repeat_penalty", F_PLAIN, OPENAI | OP, NUM, { "repeat_penalty", NULL, "repeat_penalty", NULL, NULL, "repeat_penalty" }, "" },
	{ "repetition_penalty", F_PLAIN, OPENAI, NUM, { "repeat_penalty", "repeat_penalty", "repeat_penalty", NULL, NULL, "repetition_penalty" }, "vLLM's word for it." },
	{ "repeat_last_n", F_PLAIN, OPENAI | OP, NUM, { "repeat_last_n", NULL, "repeat_last_n", NULL, NULL, "repeat_last_n" }, "" },
	{ "num_keep", F_PLAIN, OP, NUM, { "n_keep", NULL, "num_keep" }, "" },
	{ "mirostat", F_PLAIN, OP, NUM, { "mirostat", NULL, "mirostat" }, "" },
	{ "mirostat_tau", F_PLAIN, OP, NUM, { "mirostat_tau", NULL, "mirostat_tau" }, "" },
	{ "mirostat_eta", F_PLAIN, OP, NUM, { "mirostat_eta", NULL, "mirostat_eta" }, "" },
	{ "num_ctx", F_NUM_CTX, OP, NUM, { IGNORED, IGNORED, "num_ctx" }, "Ignored by name while the context in force is at least as long, else refused." },
	{ "num_batch", F_PLAIN, OP, NUM, { IGNORED, IGNORED, "num_batch" }, "How a model is loaded, not what it answers." },
	{ "num_gpu", F_PLAIN, OP, NUM, { IGNORED, IGNORED, "num_gpu" }, "" },
	{ "main_gpu", F_PLAIN, OP, NUM, { IGNORED, IGNORED, "main_gpu" }, "" },
	{ "num_thread", F_PLAIN, OP, NUM, { IGNORED, IGNORED, "num_thread" }, "" },
	{ "use_mmap", F_PLAIN, OP, BOOL, { IGNORED, IGNORED, "use_mmap" }, "" },
	{ "use_mlock", F_PLAIN, OP, BOOL, { IGNORED, IGNORED, "use_mlock" }, "" },
	{ "numa", F_PLAIN, OP, BOOL, { IGNORED, IGNORED, "numa" }, "" },
	{ "low_vram", F_PLAIN, OP, BOOL, { IGNORED, IGNORED, "low_vram" }, "" },
	{ "f16_kv", F_PLAIN, OP, BOOL, { IGNORED, IGNORED, "f16_kv" }, "" },
	{ "draft_num_predict", F_PLAIN, OP, NUM, { IGNORED, IGNORED, "draft_num_predict" }, "" },

	/* What Ollama adds around a request. */
	{ "keep_alive", F_NONE, OLLAMA, NUM | TEXT, { IGNORED, IGNORED, "keep_alive" }, "A backend that is not Ollama keeps its models as it was told at its start." },
	{ "truncate", F_NONE, OLLAMA, BOOL, { IGNORED, IGNORED, "truncate" }, "Sent to Ollama as `false` unless the client set it: a prompt too long is an error, never cut in silence." },
	{ "shift", F_NONE, OLLAMA, BOOL, { IGNORED, IGNORED, "shift" }, "" },

	/* OpenAI's own. */
	{ "n", F_COUNT_OF_ANSWERS, OPENAI, NUM, { "n", "n", NULL, NULL, NULL, "n" }, "1 is fine everywhere." },
	{ "best_of", F_COUNT_OF_ANSWERS, OT, NUM, { NULL, "best_of", NULL }, "1 is fine everywhere. llama.cpp takes no notice of it." },
	{ "echo", F_ECHO, OT, BOOL, { NULL, "echo", NULL }, "`false` is fine everywhere. llama.cpp takes no notice of it." },
	{ "logit_bias", F_LOGIT_BIAS, OPENAI, OBJ | LIST, { "logit_bias", "logit_bias", NULL, NULL, NULL, "logit_bias" }, "Token ids differ between models; Ollama has no such field." },
	{ "modalities", F_MODALITIES, OC, LIST, { "modalities", "modalities", NULL, NULL, NULL, "modalities" }, "[\"text\"] is fine everywhere." },
	{ "verbosity", F_VERBOSITY, OC, TEXT, { "verbosity", "verbosity", NULL, NULL, NULL, "verbosity" }, "\"medium\" is fine everywhere." },
	{ "audio", F_NONE, OC, OBJ, { "audio", "audio", NULL, NULL, NULL, "audio" }, "" },
	{ "web_search_options", F_NONE, OC, OBJ, { "web_search_options", "web_search_options", NULL, NULL, NULL, "web_search_options" }, "" },
	{ "moderation", F_NONE, OC, ANY, { "moderation", "moderation", NULL, NULL, NULL, "moderation" }, "" },
	{ "prediction", F_NONE, OC, OBJ, { "prediction", "prediction", IGNORED, IGNORED, IGNORED, "prediction" }, "Speeds an answer up, does not change it." },
	{ "user", F_NONE, OPENAI, TEXT, NO_EFFECT, "The user of the ledger and of experiments." },
	{ "safety_identifier", F_NONE, OPENAI, TEXT, NO_EFFECT, "" },
	{ "metadata", F_NONE, OPENAI, OBJ, NO_EFFECT, "" },
	{ "store", F_NONE, OPENAI, BOOL, NO_EFFECT, "" },
	{ "service_tier", F_NONE, OPENAI, TEXT, NO_EFFECT, "" },
	{ "prompt_cache_key", F_NONE, OPENAI, TEXT, NO_EFFECT, "" },
	{ "prompt_cache_retention", F_NONE, OPENAI, TEXT, NO_EFFECT, "" },
	{ "prompt_cache_options", F_NONE, OPENAI, OBJ, NO_EFFECT, "" },

	/* What llama.cpp and vLLM add to OpenAI's requests. */
	{ "cache_prompt", F_NONE, OPENAI, BOOL, { "cache_prompt", "cache_prompt", IGNORED, IGNORED, IGNORED, "cache_prompt" }, "Speed only." },
	{ "id_slot", F_NONE, OPENAI, NUM, { "id_slot", "id_slot", IGNORED, IGNORED, IGNORED, "id_slot" }, "" },
	{ "timings_per_token", F_NONE, OPENAI, BOOL, { "timings_per_token", "timings_per_token", IGNORED, IGNORED, IGNORED, "timings_per_token" }, "" },
	{ "return_progress", F_NONE, OPENAI, BOOL, { "return_progress", "return_progress", IGNORED, IGNORED, IGNORED, "return_progress" }, "" },
	{ "sse_ping_interval", F_NONE, OPENAI, NUM, { "sse_ping_interval", "sse_ping_interval", IGNORED, IGNORED, IGNORED, "sse_ping_interval" }, "" },
	{ "priority", F_NONE, OPENAI, NUM, { "priority", "priority", IGNORED, IGNORED, IGNORED, "priority" }, "" },
	{ "request_id", F_NONE, OPENAI, TEXT, { "request_id", "request_id", IGNORED, IGNORED, IGNORED, "request_id" }, "" },
	{ "cache_salt", F_NONE, OPENAI, TEXT, { "cache_salt", "cache_salt", IGNORED, IGNORED, IGNORED, "cache_salt" }, "" },
	{ "chat_template_kwargs", F_TEMPLATE_KWARGS, OC, OBJ, { "chat_template_kwargs", "chat_template_kwargs", "think", "thinking", "thinkingConfig", "chat_template_kwargs" }, "`enable_thinking` for Ollama; anything else in it is refused there. `true` is 8192 tokens for Anthropic, and as many as the model likes for Gemini." },
	{ "reasoning_format", F_NONE, OC, TEXT, { "reasoning_format", "reasoning_format", NULL, NULL, NULL, "reasoning_format" }, "" },
	{ "grammar", F_NONE, OPENAI, TEXT, { "grammar", "grammar", NULL, NULL, NULL, "grammar" }, "Use `response_format`." },
	{ "json_schema", F_NONE, OPENAI, OBJ, { "json_schema", "json_schema", NULL, NULL, NULL, "json_schema" }, "Use `response_format`." },
	{ "structured_outputs", F_NONE, OPENAI, OBJ, { "structured_outputs", "structured_outputs", NULL, NULL, NULL, "structured_outputs" }, "Use `response_format`." },
	{ "ignore_eos", F_ECHO, OPENAI, BOOL, { "ignore_eos", "ignore_eos", NULL, NULL, NULL, "ignore_eos" }, "`false` is fine everywhere." },
	{ "min_tokens", F_NONE, OPENAI, NUM, { "min_tokens", "min_tokens", NULL, NULL, NULL, "min_tokens" }, "" },

	/* Members of a message. */
	{ "role", F_ROLE, OM | LM, TEXT, { "role", "role", "role", "role", "role", "role" }, "system, user, assistant, tool; `developer` is `system` for Ollama." },
	{ "content", F_CONTENT, OM, TEXT | LIST, { "content", "content", "content", "content", "parts", "content" }, "For Ollama: text parts are joined, images are data URIs; image addresses, audio and files are refused. Anthropic fetches image addresses, Gemini is not sent any; parts keep their order there." },
	{ "content", F_CONTENT, LM, TEXT, ALL("content"), "" },
	{ "images", F_IMAGES, LM, LIST, ALL("content[].image_url"), "Base64 becomes a data URI." },
	{ "tool_calls", F_CALLS, OM | LM, LIST, { "tool_calls", "tool_calls", "tool_calls", "content[].tool_use", "parts[].functionCall", "tool_calls" }, "Arguments: a string of JSON for OpenAI, an object for Ollama. A missing id is made up, the same for its result. What Gemini signs comes and goes as `extra_content.google.thought_signature` of each." },
	{ "tool_call_id", F_CALL_ID, OM | LM, TEXT, { "tool_call_id", "tool_call_id", "tool_name", "content[].tool_result", "parts[].functionResponse", "tool_call_id" }, "The name of the tool is looked up in the earlier call." },
	{ "tool_name", F_TOOL_NAME, LM, TEXT, { "tool_call_id", "tool_call_id", "tool_name" }, "The id is looked up: the first unanswered call of that name." },
	{ "thinking", F_THINKING, LM, TEXT, { "reasoning_content", IGNORED, "thinking" }, "" },
	{ "reasoning_content", F_THINKING, OM, TEXT, { "reasoning_content", "reasoning_content", "thinking", IGNORED, IGNORED, "reasoning_content" }, "" },
	{ "reasoning", F_THINKING, OM, TEXT, { "reasoning", "reasoning", "thinking", IGNORED, IGNORED, "reasoning" }, "" },
	{ "name", F_NONE, OM, TEXT, { "name", "name", IGNORED, IGNORED, IGNORED, "name" }, "" },
	{ "refusal", F_NONE, OM, TEXT, { "refusal", "refusal", IGNORED, IGNORED, IGNORED, "refusal" }, "" },
	{ "parsed", F_NONE, OM, ANY, { "parsed", "parsed", IGNORED, IGNORED, IGNORED, "parsed" }, "OpenAI's package adds it to the answers that it has read, and sends it back with them." },
	{ "annotations", F_NONE, OM, LIST, { "annotations", "annotations", IGNORED, IGNORED, IGNORED, "annotations" }, "" },
	{ "audio", F_NONE, OM, OBJ, { "audio", "audio", NULL, NULL, NULL, "audio" }, "" },
	{ "function_call", F_NONE, OM, OBJ, { "function_call", "function_call", NULL, NULL, NULL, "function_call" }, "Deprecated; use `tool_calls`." },

	/* Embeddings. */
	{ "input", F_EMBED_INPUT, OE | LE, TEXT | LIST, ALL("input"), "A text or several. Token ids pass to llama.cpp and OpenAI-style servers and are refused for Ollama." },
	{ "prompt", F_EMBED_INPUT, LO, TEXT, ALL("input"), "" },
	{ "encoding_format", F_ENCODING, OE, TEXT, { "encoding_format", "encoding_format", "embeddings" }, "`base64` is made here where the backend has only numbers." },
	{ "dimensions", F_NONE, OE | LE, NUM, { NULL, "dimensions", "dimensions" }, "llama.cpp takes no notice of it, so it is refused there for every client." },
	{ "truncate", F_NONE, LE, BOOL, { IGNORED, IGNORED, "truncate" }, "Sent to Ollama as `false` unless the client set it: a text too long is an error, never cut in silence." },
	{ "options", F_NONE, LE | LO, OBJ, { IGNORED, IGNORED, "options" }, "How a model is loaded." },
	{ "keep_alive", F_NONE, LE | LO, NUM | TEXT, { IGNORED, IGNORED, "keep_alive" }, "" },
	{ "user", F_NONE, OE, TEXT, NO_EFFECT, "The user of the ledger." },
	{ "metadata", F_NONE, OE, OBJ, NO_EFFECT, "" },

	/* Anthropic's. */
	{ "metadata", F_METADATA, AN, OBJ, NO_EFFECT, "`user_id` is the user of the ledger." },
	{ "service_tier", F_NONE, AN, TEXT, NO_EFFECT, "" },
	{ "container", F_NONE, AN, ANY, NO_EFFECT, "" },
	{ "inference_geo", F_NONE, AN, TEXT, NO_EFFECT, "" },
	{ "cache_control", F_NONE, AN | AB | AT, OBJ, NO_EFFECT, "Backends cache prompts by themselves." },
	{ "context_management", F_NONE, AN, OBJ, NO_EFFECT, "The conversation is sent as it is; nothing in it is cleared." },
	{ "mcp_servers", F_NONE, AN, LIST, NOWHERE, "" },
	{ "role", F_ROLE, AM, TEXT, ALL("role"), "user, assistant, system." },
	{ "content", F_CONTENT, AM, TEXT | LIST, ALL("content"), "" },
	{ "type", F_TYPE, AB, TEXT, ALL("messages"), "text, image, tool_use, tool_result, thinking, redacted_thinking, document (its text only)." },
	{ "text", F_TEXT, AB, TEXT, ALL("content"), "A line end between blocks." },
	{ "source", F_SOURCE, AB, OBJ, ALL("content[].image_url"), "Base64 of an image, text of a document; addresses and files are refused." },
	{ "id", F_ID, AB, TEXT, ALL("tool_calls[].id"), "" },
	{ "name", F_NAME, AB, TEXT, ALL("tool_calls[].function.name"), "" },
	{ "input", F_INPUT, AB, OBJ, ALL("tool_calls[].function.arguments"), "A string of JSON for OpenAI, an object for Ollama." },
	{ "tool_use_id", F_CALL_ID, AB, TEXT, { "tool_call_id", "tool_call_id", "tool_name" }, "" },
	{ "content", F_CONTENT, AB, TEXT | LIST, ALL("content"), "Of a tool_result: its text; its images go into the user message behind it." },
	{ "is_error", F_IS_ERROR, AB, BOOL, ALL("content"), "\"Error:\" stands in a line before the text." },
	{ "thinking", F_THINKING, AB, TEXT, { "reasoning_content", IGNORED, "thinking" }, "" },
	{ "signature", F_NONE, AB, TEXT, NO_EFFECT, "Ours are empty." },
	{ "data", F_NONE, AB, TEXT, NO_EFFECT, "Of a redacted_thinking block." },
	{ "citations", F_NONE, AB, OBJ | LIST, NO_EFFECT, "" },
	{ "caller", F_NONE, AB, OBJ, NO_EFFECT, "" },
	{ "title", F_NONE, AB, TEXT, NO_EFFECT, "" },
	{ "context", F_NONE, AB, TEXT, NOWHERE, "" },
	{ "type", F_TYPE, AT, TEXT, ALL("tools[].type"), "custom" },
	{ "name", F_NAME, AT, TEXT, ALL("tools[].function.name"), "" },
	{ "description", F_DESCRIPTION, AT, TEXT, ALL("tools[].function.description"), "" },
	{ "input_schema", F_SCHEMA, AT, OBJ, ALL("tools[].function.parameters"), "" },
	{ "strict", F_STRICT, AT, BOOL, { "tools[].function.strict", "tools[].function.strict", IGNORED }, "" },
	{ "eager_input_streaming", F_NONE, AT, BOOL, NO_EFFECT, "" },
	{ "input_examples", F_NONE, AT, LIST, NO_EFFECT, "" },
	{ "defer_loading", F_NONE, AT, BOOL, NOWHERE, "" },
	{ "allowed_callers", F_NONE, AT, LIST, NO_EFFECT, "" },
	{ "type", F_TYPE, AK, TEXT, { "chat_template_kwargs", "reasoning_effort", "think" }, "enabled; disabled; adaptive is what the model does by itself." },
	{ "budget_tokens", F_BUDGET, AK, NUM, { IGNORED, "reasoning_effort", IGNORED }, "Up to 4096 is low, up to 16384 medium, above it high." },
	{ "display", F_NONE, AK, TEXT, NO_EFFECT, "" },
	{ "effort", F_EFFORT, AO, TEXT, { "reasoning_effort", "reasoning_effort", "think" }, "xhigh is max. With `thinking` disabled, or a model that is known not to think, it is ignored." },
	{ "format", F_FORMAT, AO, OBJ, ALL("response_format"), "`json_schema`" },

	/* Ours. */
	{ "task_type", F_TASK_TYPE, NA, TEXT, NO_EFFECT, "Read by the gateway." },
	{ "complexity", F_COMPLEXITY, NA, TEXT, NO_EFFECT, "Read by the gateway." },
	{ "language", F_LANGUAGE, NA, TEXT, NO_EFFECT, "Read by the gateway." },
	{ "policy", F_POLICY, NA, TEXT, NO_EFFECT, "Read by the gateway." },
	{ "local_only", F_LOCAL_ONLY, NA, BOOL, NO_EFFECT, "Read by the gateway." },
	{ "user_id", F_USER_ID, NA, TEXT, NO_EFFECT, "Read by the gateway." },
	{ "session_id", F_SESSION_ID, NA, TEXT, NO_EFFECT, "Read by the gateway." },
	{ "conversation_id", F_CONVERSATION_ID, NA, TEXT, NO_EFFECT, "Read by the gateway." },
	{ "optimize_context", F_OPTIMIZE, NA, BOOL, NO_EFFECT, "Read by the gateway: blocks that stand twice in `context` are said once." },
	{ "no_cache", F_CACHE, NA, BOOL, NO_EFFECT, "Read by the gateway." },
	{ "cache_ttl_s", F_CACHE, NA, NUM, NO_EFFECT, "Read by the gateway." },
};
enum { ROWS = sizeof(table) / sizeof(table[0]), SLOTS = 512 };

/* Names are found by a hash with open addressing; a slot holds a row's index + 1. */
static uint16_t slots[SLOTS];
static pthread_once_t slots_once = PTHREAD_ONCE_INIT;

static unsigned slot_of(struct str name)
{
	unsigned h = (unsigned)name.n * 131;

	if (name.n)
		h += (unsigned char)name.p[0] * 31u + (unsigned char)name.p[name.n - 1] * 7u + (unsigned char)name.p[name.n / 2] * 3u;
	return h % SLOTS;
}

static void fill_slots(void)
{
	_Static_assert(ROWS < SLOTS / 2, "the table of slots is sparse");
	for (unsigned i = 0; i < ROWS; i++) {
		unsigned at = slot_of(str_of(table[i].name));

		while (slots[at])
			at = (at + 1) % SLOTS;
		slots[at] = (uint16_t)(i + 1);
	}
}

enum llm_form llm_form_of(enum llm_dialect dialect, enum llm_op op)
{
	if (dialect == LLM_NATIVE)
		return FORM_NATIVE;
	if (dialect == LLM_ANTHROPIC)
		return FORM_ANTHROPIC;
	if (op == LLM_EMBED || op == LLM_EMBED_OLD)
		return op == LLM_EMBED_OLD ? FORM_OLLAMA_EMBED_OLD : dialect == LLM_OPENAI ? FORM_OPENAI_EMBED : FORM_OLLAMA_EMBED;
	if (dialect == LLM_OPENAI)
		return op == LLM_CHAT ? FORM_OPENAI_CHAT : FORM_OPENAI_COMPLETE;
	return op == LLM_CHAT ? FORM_OLLAMA_CHAT : FORM_OLLAMA_GENERATE;
}

const struct field *field_find(enum llm_form form, struct str name)
{
	pthread_once(&slots_once, fill_slots);
	for (unsigned at = slot_of(name); slots[at]; at = (at + 1) % SLOTS) {
		const struct field *f = &table[slots[at] - 1];

		if (f->forms & 1u << form && str_eqz(name, f->name))
			return f;
	}
	return NULL;
}

const struct field *field_find_any_case(enum llm_form form, struct str name)
{
	for (unsigned i = 0; i < ROWS; i++)
		if (table[i].forms & 1u << form && str_ieq(name, str_of(table[i].name)))
			return &table[i];
	return NULL;
}

const struct field *field_at(unsigned i) { return i < ROWS ? &table[i] : NULL; }

const char *field_nearest(enum llm_form form, struct str name)
{
	unsigned best = name.n < 5 ? 2 : 3;           /* more typing errors than that make another word */
	const char *found = NULL;

	for (unsigned i = 0; i < ROWS; i++) {
		unsigned d;

		if (!(table[i].forms & 1u << form))
			continue;
		d = str_distance(name, str_of(table[i].name));
		if (d < best)
			best = d, found = table[i].name;
	}
	return found;
}

bool field_is_for_gateway(const struct field *f) { return f->id >= F_TASK_TYPE && f->id <= F_CACHE; }

bool field_has_no_effect(const struct field *f)
{
	if (f->id != F_NONE && f->id != F_METADATA)
		return false;
	for (unsigned i = 0; i < LLM_BACKENDS; i++)
		if (f->as[i] ? strcmp(f->as[i], IGNORED) != 0 : i <= LLM_BACKEND_OLLAMA)
			return false;
	return true;
}

static const char *kinds_name(unsigned kinds)
{
	switch (kinds) {
	case TEXT: return "a string";
	case NUM: return "a number";
	case BOOL: return "true or false";
	case LIST: return "an array";
	case OBJ: return "an object";
	case TEXT | LIST: return "a string or an array";
	case TEXT | OBJ: return "a string or an object";
	case NUM | TEXT: return "a number or a string";
	case BOOL | TEXT: return "true, false or a string";
	case OBJ | LIST: return "an object or an array";
	default: return "another type";
	}
}

enum err field_check_kind(const struct field *f, const char *path, const struct json *doc, uint32_t value, struct why *why)
{
	enum json_kind kind = json_kind(doc, value);

	if (kind == JSON_NULL || f->kinds & 1u << kind)
		return ERR_OK;
	return err_field(why, ERR_MALFORMED, path, "%s must be %s, not %s", path, kinds_name(f->kinds), json_kind_name(kind));
}

/* A penalty that changes nothing. */
static bool is_neutral(const struct field *f, const struct json *doc, uint32_t value)
{
	double given, nothing = strcmp(f->name, "presence_penalty") == 0 || strcmp(f->name, "frequency_penalty") == 0 ? 0 : 1;

	return str_ends(str_of(f->name), STR("_penalty")) && json_double(doc, value, &given) && given == nothing;
}

bool field_harmless(const struct field *f, const struct json *doc, uint32_t value)
{
	enum json_kind kind = json_kind(doc, value);
	int64_t n = 0;

	if (kind == JSON_NULL)
		return true;
	if ((kind == JSON_ARRAY || kind == JSON_OBJECT) && json_count(doc, value) == 0)
		return f->id != F_NONE || kind == JSON_ARRAY;
	switch (f->id) {
	case F_COUNT_OF_ANSWERS: return json_i64(doc, value, &n) && n == 1;
	case F_ECHO: return kind == JSON_FALSE;
	case F_PARALLEL_TOOLS: return kind == JSON_TRUE;
	case F_VERBOSITY: return json_string_eq(doc, value, "medium");
	case F_MODALITIES: return json_count(doc, value) == 1 && json_string_eq(doc, json_first(doc, value), "text");
	case F_TEMPLATE: case F_SUFFIX: return json_raw(doc, value).n == 2;
	case F_LOGPROBS: return kind == JSON_FALSE;
	case F_TOP_LOGPROBS: return json_i64(doc, value, &n) && n == 0;
	case F_PLAIN: return is_neutral(f, doc, value);
	default: return false;
	}
}

static const char *const backend_name[LLM_BACKENDS] = { "llama.cpp", "OpenAI-style", "Ollama", "Anthropic", "Gemini", "RunPod" };

const char *backend_kind_name(enum llm_backend kind) { return backend_name[kind]; }

static const struct { const char *title; bool same[LLM_BACKENDS]; } form_doc[FORM_COUNT] = {
	{ "OpenAI `/v1/chat/completions`", { true, true, [LLM_BACKEND_RUNPOD] = true } },
	{ "OpenAI `/v1/completions`", { true, true, false } },
	{ "Ollama `/api/chat`", { false, false, true } },
	{ "Ollama `/api/generate`", { false, false, true } },
	{ "Native `/api/ollama/inference`", { false, false, false } },
	{ "`options` of Ollama and native requests", { false, false, true } },
	{ "Messages of OpenAI requests", { true, true, [LLM_BACKEND_RUNPOD] = true } },
	{ "Messages of Ollama requests", { false, false, true } },
	{ "Anthropic `/v1/messages`, `/v1/messages/count_tokens`", { false, false, false } },
	{ "Messages of Anthropic requests", { false, false, false } },
	{ "Blocks of Anthropic requests", { false, false, false } },
	{ "Tools of Anthropic requests", { false, false, false } },
	{ "`thinking` of Anthropic requests", { false, false, false } },
	{ "`output_config` of Anthropic requests", { false, false, false } },
	{ "OpenAI `/v1/embeddings`", { true, true, false } },
	{ "Ollama `/api/embed`", { false, false, true } },
	{ "Ollama `/api/embeddings`", { false, false, false } },
};

static void dump_cell(struct buf *out, const struct field *f, unsigned form, unsigned backend)
{
	const char *as = f->as[backend];

	if (form_doc[form].same[backend] && (as || backend != LLM_BACKEND_LLAMACPP) && !(f->id == F_SUFFIX && backend == LLM_BACKEND_LLAMACPP))
		buf_addz(out, f->id == F_MODEL ? " replaced |" : " as it is |");
	else if (!as)
		buf_addz(out, " refused |");
	else if (strcmp(as, IGNORED) == 0)
		buf_addz(out, field_is_for_gateway(f) ? " – |" : " ignored |");
	else if (as[0] == '(')
		buf_printf(out, " %s |", as);
	else
		buf_printf(out, backend == LLM_BACKEND_OLLAMA && (f->id == F_PLAIN || f->forms & OP || strcmp(as, "num_predict") == 0)
		                        ? " `options.%s` |" : " `%s` |", as);
}

void llm_dump_fields(struct buf *out)
{
	buf_addz(out, "# Fields of inference requests\n\nWhat becomes of each field a client sends, by the kind of backend that answers. "
	              "*As it is*: client and backend speak the same dialect, the bytes pass through, unknown fields too. "
	              "*Ignored*: accepted without effect and named in `X-Corral-Ignored`. *Refused*: a 400 that names the field, "
	              "unless its value asks for nothing. A field that is not listed is refused where a request has to be converted. "
	              "Anthropic, Gemini and RunPod are asked in OpenAI's chat form only: what comes in another form is read into that one first.\n");
	for (unsigned form = 0; form < FORM_COUNT; form++) {
		unsigned kinds = form == FORM_OPENAI_CHAT || form == FORM_OPENAI_MESSAGE ? LLM_BACKENDS : 3;

		buf_printf(out, "\n## %s\n\n| field |", form_doc[form].title);
		for (unsigned b = 0; b < kinds; b++)
			buf_printf(out, " %s |", backend_name[b]);
		buf_printf(out, " remarks |\n|---|---|%s---|---|---|\n", kinds > 3 ? "---|---|---|" : "");
		for (unsigned i = 0; i < ROWS; i++) {
			if (!(table[i].forms & 1u << form))
				continue;
			buf_printf(out, "| `%s` |", table[i].name);
			for (unsigned b = 0; b < kinds; b++)
				dump_cell(out, &table[i], form, b);
			buf_printf(out, " %s |\n", table[i].note);
		}
	}
}
