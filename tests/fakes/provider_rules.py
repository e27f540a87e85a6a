"""What the scripted providers of providers.py refuse before they answer, as the real ones do: requests that their API does not take.

    refused(call)   ->  None, or (status, sentence)

The rules are those that a gateway between two APIs breaks easily: unknown members, results without their calls, calls without the signature
that they came with, schemas that are not strict where strictness is asked for.
"""
import re

OPENAI = set("""model messages stream stream_options max_tokens max_completion_tokens temperature top_p n stop seed presence_penalty frequency_penalty logit_bias logprobs
    top_logprobs tools tool_choice parallel_tool_calls response_format reasoning_effort verbosity modalities audio prediction user safety_identifier metadata store
    service_tier prompt_cache_key functions function_call web_search_options""".split())
ANTHROPIC = set("""model messages max_tokens system stream temperature top_p top_k stop_sequences tools tool_choice thinking output_config metadata
    service_tier cache_control container inference_geo""".split())
GEMINI = set("contents systemInstruction tools toolConfig safetySettings cachedContent generationConfig serviceTier labels".split())
GEMINI_CONFIG = set("""temperature topP topK candidateCount maxOutputTokens stopSequences seed presencePenalty frequencyPenalty responseMimeType responseSchema
    responseJsonSchema responseLogprobs logprobs responseModalities mediaResolution thinkingConfig""".split())
SKIP = "skip_thought_signature_validator"            # the vendor's word for calls that it did not make
SIGNATURE = "c2lnbmF0dXJl"


def refused(call):
    rule = {"openai": openai, "gemini-openai": gemini_openai, "openrouter": messages, "runpod-openai": messages, "runpod": messages, "anthropic": anthropic,
            "gemini": gemini}[call.provider]
    sentence = rule(call.json, call.headers)
    return (400, sentence) if sentence else None


def unknown(given, known, where=""):
    return next((where + name for name in given if name not in known), None)


def is_strict(schema):
    """Every object closed, and nothing optional."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" and (schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties or ())):
        return False
    return all(is_strict(inner) for inner in [*(properties or {}).values(), *(v for k, v in schema.items() if k != "properties")])


def messages(body, _):
    """What all of OpenAI's form have in common: each call has its result behind it, and each result its call."""
    open_calls = set()
    for i, m in enumerate(body.get("messages", [])):
        if m.get("role") == "tool":
            if m.get("tool_call_id") not in open_calls:
                return f"Invalid parameter: messages[{i}] with role 'tool' must be a response to a preceding message with 'tool_calls'."
            open_calls.discard(m["tool_call_id"])
        elif open_calls:
            return "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'."
        for call in m.get("tool_calls") or []:
            if call.get("type") != "function" or not isinstance(call["function"].get("arguments"), str):
                return f"Invalid value: messages[{i}].tool_calls"
            open_calls.add(call["id"])
    return "'stream_options' is only allowed when 'stream' is set" if "stream_options" in body and not body.get("stream") else None


def openai(body, headers):
    strange = unknown(body, OPENAI)
    if strange:
        return f"Unrecognized request argument supplied: {strange}"
    wish = (body.get("response_format") or {}).get("json_schema", {})
    if wish.get("strict") and not is_strict(wish.get("schema")):
        return f"Invalid schema for response_format '{wish.get('name')}': 'additionalProperties' is required to be supplied and to be false."
    if (body.get("response_format") or {}).get("type") == "json_schema" and not wish.get("name"):
        return "Missing required parameter: 'response_format.json_schema.name'."
    return messages(body, headers)


def unsigned(steps):
    """The first call of each step of this turn has the signature that it came with; the others of a step have none."""
    for step in steps:
        if step and step[0] is None:
            return "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly."
        if any(s not in (SIGNATURE, SKIP, None) for s in step):
            return "Corrupted thought signature."
    return None


def gemini_openai(body, headers):
    strange = unknown(body, OPENAI | {"extra_body"})
    if strange:
        return f'Invalid JSON payload received. Unknown name "{strange}": Cannot find field.'
    said = body.get("messages", [])
    turn = said[max([i for i, m in enumerate(said) if m.get("role") == "user"], default=0):]
    return messages(body, headers) or unsigned([[c.get("extra_content", {}).get("google", {}).get("thought_signature") for c in m["tool_calls"]] for m in turn
                                                if m.get("tool_calls")])


def gemini(body, _):
    strange = unknown(body, GEMINI) or unknown(body.get("generationConfig", {}), GEMINI_CONFIG, "generation_config.")
    if strange:
        return f'Invalid JSON payload received. Unknown name "{strange}": Cannot find field.'
    contents, turn, asked = body.get("contents", []), [], []
    for content in contents:
        if content.get("role", "user") not in ("user", "model") or not content.get("parts"):
            return "Please use a valid role: user, model."
        calls = [p for p in content["parts"] if "functionCall" in p]
        answers = [p["functionResponse"] for p in content["parts"] if "functionResponse" in p]
        if answers and (sorted(a["name"] for a in answers) != sorted(asked) or not all(isinstance(a.get("response"), dict) for a in answers)):
            return "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn."
        if not answers and content.get("role", "user") == "user":
            turn = []
        turn.append([p.get("thoughtSignature") for p in calls])
        asked = [p["functionCall"]["name"] for p in calls]
    return unsigned(turn)


def anthropic(body, headers):
    if not headers.get("anthropic-version"):
        return "anthropic-version: header is required"
    strange = unknown(body, ANTHROPIC)
    if strange:
        return f"{strange}: Extra inputs are not permitted"
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    open_uses = set()
    for i, m in enumerate(body.get("messages", [])):
        blocks = m["content"] if isinstance(m["content"], list) else []
        results = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        if set(results) != open_uses:
            return f"messages.{i}: `tool_use` ids were found without `tool_result` blocks immediately after, or the other way round"
        if m.get("role") not in ("user", "assistant") or any(not re.fullmatch(r"[a-zA-Z0-9_-]+", b["id"]) for b in blocks if b["type"] == "tool_use"):
            return f"messages.{i}: Input does not match the expected shape"
        open_uses = {b["id"] for b in blocks if b["type"] == "tool_use"}
    return None
