SET LOCAL search_path = pg_catalog, pg_temp;

-- The providers that everybody starts with. Their ids are constant, so that restored keys, models
-- and logs find them again.
INSERT INTO @extschema@.api_providers
    (id, name, display_name, provider_type, api_standard, base_url, models_url, key_check_url,
     catalogue_format, headers, features, documentation_url, key_url)
VALUES
    ('a9920000-0000-4000-8000-000000000001', 'aihubmix', 'AiHubMix', 'aggregator', 'openai',
     'https://aihubmix.com/v1', 'https://aihubmix.com/api/v1/models', NULL,
     'aihubmix', '{"X-Provider": "aihubmix"}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": true}',
     'https://docs.aihubmix.com', 'https://aihubmix.com/token'),
    ('a9920000-0000-4000-8000-000000000002', 'openrouter', 'OpenRouter', 'aggregator', 'openai',
     'https://openrouter.ai/api/v1', NULL, 'https://openrouter.ai/api/v1/key',
     'openrouter',
     '{"HTTP-Referer": "https://postgresql.org/extension/aggregator", "X-OpenRouter-Title": "aggregator", "X-Title": "aggregator"}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": true}',
     'https://openrouter.ai/docs', 'https://openrouter.ai/settings/keys'),
    ('a9920000-0000-4000-8000-000000000003', 'openai', 'OpenAI', 'direct', 'openai',
     'https://api.openai.com/v1', NULL, NULL, 'openai', '{}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": true}',
     'https://platform.openai.com/docs', 'https://platform.openai.com/api-keys'),
    ('a9920000-0000-4000-8000-000000000004', 'anthropic', 'Anthropic', 'direct', 'anthropic',
     'https://api.anthropic.com/v1', NULL, NULL, 'openai', '{}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": false}',
     'https://docs.anthropic.com', 'https://console.anthropic.com/settings/keys'),
    ('a9920000-0000-4000-8000-000000000005', 'gemini', 'Google Gemini', 'direct', 'openai',
     'https://generativelanguage.googleapis.com/v1beta/openai', NULL, NULL, 'openai', '{}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": true}',
     'https://ai.google.dev/gemini-api/docs/openai', 'https://aistudio.google.com/apikey'),
    ('a9920000-0000-4000-8000-000000000006', 'deepseek', 'DeepSeek', 'direct', 'openai',
     'https://api.deepseek.com/v1', NULL, NULL, 'openai', '{}',
     '{"supports_streaming": true, "supports_vision": false, "supports_functions": true, "supports_audio": false}',
     'https://api-docs.deepseek.com', 'https://platform.deepseek.com/api_keys'),
    ('a9920000-0000-4000-8000-000000000007', 'mistral', 'Mistral AI', 'direct', 'openai',
     'https://api.mistral.ai/v1', NULL, NULL, 'openai', '{}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": true}',
     'https://docs.mistral.ai', 'https://console.mistral.ai/api-keys'),
    ('a9920000-0000-4000-8000-000000000008', 'groq', 'Groq', 'direct', 'openai',
     'https://api.groq.com/openai/v1', NULL, NULL, 'openai', '{}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": true}',
     'https://console.groq.com/docs', 'https://console.groq.com/keys'),
    ('a9920000-0000-4000-8000-000000000009', 'xai', 'xAI', 'direct', 'openai',
     'https://api.x.ai/v1', NULL, NULL, 'openai', '{}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": false}',
     'https://docs.x.ai', 'https://console.x.ai'),
    ('a9920000-0000-4000-8000-00000000000a', 'together', 'Together AI', 'direct', 'openai',
     'https://api.together.xyz/v1', NULL, NULL, 'openai', '{}',
     '{"supports_streaming": true, "supports_vision": true, "supports_functions": true, "supports_audio": true}',
     'https://docs.together.ai', 'https://api.together.ai/settings/api-keys');

SET LOCAL search_path = @extschema@, pg_temp;
