"""A gateway from the OpenAI Responses API to inference engines.

    ResponsesRequest -> Turn -> PromptTokens -> EngineChunk -> TextDelta
        -> ParsedDelta -> Event -> bytes

Each arrow is one function, in the module named after what it makes.
"""

__version__ = "0.1.0"
