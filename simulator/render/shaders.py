"""GLSL of the OpenGL backend: what is drawn around the shading functions that `glsl` translates."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.render import mesh, raster, shade, sprites, textures
from simulator.render.glsl import array_constant, literal, translate

_VERSION = "#version 430\n"

_CAMERA = """
uniform vec3 eye; uniform vec3 forward; uniform vec3 right; uniform vec3 up; uniform vec2 scale;
vec4 projected(vec3 position) {
  vec3 d = position - eye;
  float depth = dot(forward, d);
  // The depth buffer holds NEAR_M / depth, and rows count downwards as in an image.
  return vec4(scale.x * dot(right, d), -scale.y * dot(up, d), 2.0 * NEAR_M - depth, depth);
}
"""

_TILE_VERTEX = """
in vec3 position; in int first_triangle; flat out int first;
void main() { first = first_triangle; gl_Position = projected(position); }
"""

_TILE_FRAGMENT = """
layout(std430, binding = 0) buffer Names { int names[]; };
uniform int base_id; flat in int first; out vec2 seen;
void main() { seen = vec2(float(base_id + names[first + gl_PrimitiveID]) + 1.0, gl_FragCoord.w); }
"""

_SHADOW_VERTEX = """
in vec3 position; in vec4 plane; flat out vec4 ground;
void main() { ground = plane; gl_Position = projected(position); }
"""

_SHADOW_FRAGMENT = """
uniform sampler2D visible; uniform vec3 forward; uniform vec3 right; uniform vec3 up; uniform float focal;
uniform int still_count; flat in vec4 ground; out float marked;
void main() {
  vec2 seen = texelFetch(visible, ivec2(gl_FragCoord.xy), 0).xy;
  int id = int(seen.x + 0.5) - 1;
  if (id < 0 || id >= still_count) discard;
  vec2 at = (gl_FragCoord.xy - 0.5 * vec2(textureSize(visible, 0))) / focal;
  float inverse = dot(ground.xyz, forward + at.x * right - at.y * up) / ground.w;
  if (abs(seen.y - inverse) >= SHADOW_TOLERANCE * inverse) discard;
  marked = 1.0;
}
"""

_SCREEN_VERTEX = """
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }
"""

_ACCESS = """
layout(std430, binding = 1) buffer Still { float still[]; };
layout(std430, binding = 2) buffer Bodies { float bodies[]; };
layout(std430, binding = 3) buffer Texels { uint texel_words[]; };
uniform sampler2D visible; uniform sampler2D shadow_mask;
uniform sampler2D noise; uniform sampler2D ground; uniform sampler2D beams;
uniform float light[LIGHT_SIZE]; uniform vec2 origin; uniform float cell_m; uniform int still_count;
uniform vec3 eye; uniform vec3 forward; uniform vec3 right; uniform vec3 up; uniform float focal; uniform int samples;
float light_at(int i) { return light[i]; }
float noise_at(int i, int j) { return texelFetch(noise, ivec2(j, i), 0).x; }
int ground_at(int i, int j, int k) { return int(texelFetch(ground, ivec2(j, i), 0)[k] * 255.0 + 0.5); }
int beams_at(int i, int j) { return int(texelFetch(beams, ivec2(j, i), 0).x * 255.0 + 0.5); }
int ground_shape(int k) { return k == 0 ? textureSize(ground, 0).y : textureSize(ground, 0).x; }
float origin_at(int i) { return origin[i]; }
int offsets_at(int i) { return offsets_values[i]; }
float tile_m_at(int i) { return tile_m_values[i]; }
int of_material_at(int i) { return of_material_values[i]; }
float table_at(int k, int i) {
  return k < still_count ? still[k * SURFACE_SIZE + i] : bodies[(k - still_count) * SURFACE_SIZE + i];
}
int texels_at(int texture_number, int i) {
  int place = texture_number * TEXELS + i;
  return int((texel_words[place >> 2] >> uint((place & 3) * 8)) & 255u);
}
"""

_SHADE_FRAGMENT = """
out vec4 bgra;

vec3 seen_through(int code, float inverse, float u, float v, float pixel) {
  vec3 p = forward + u * right + v * up;
  float span = length(p);
  vec3 d = p / span;
  float r, g, b;
  if (code < 0) {
    _sky(d.x, d.y, d.z, r, g, b);
    return vec3(r, g, b);
  }
  int k = code & (SHADOW_BIT - 1);
  float depth = 1.0 / inverse;
  vec3 at = eye + p * depth;
  vec3 normal = vec3(table_at(k, 3), table_at(k, 4), table_at(k, 5));
  float ar, ag, ab, br, bg, bb, haze;
  _light_at(at.x, at.y, at.z, d.x, d.y, d.z, depth * span, normal.x, normal.y, normal.z, int(table_at(k, 6)),
            (code & SHADOW_BIT) != 0, eye.z, ar, ag, ab, br, bg, bb, haze);
  r = table_at(k, 0); g = table_at(k, 1); b = table_at(k, 2);
  int texture_number, windows, seed;
  float ax, ay, az, a0, cx, cy, cz, c0;
  _pattern(k, texture_number, windows, seed, ax, ay, az, a0, cx, cy, cz, c0);
  float glow = 0.0;
  if (texture_number != NO_TEXTURE) {
    float s = ax * at.x + ay * at.y + az * at.z + a0, t = cx * at.x + cy * at.y + cz * at.z + c0;
    float tile = tile_m_at(texture_number);
    float footprint_m = pixel * span * depth / sqrt(max(0.02, abs(dot(normal, d))));
    int level = _level(tile, footprint_m);
    float factor = _texel(texture_number, offsets_at(level), SIDE >> level, level == 0, s, t);
    r *= factor; g *= factor; b *= factor;
    if (windows >= 0) {
      float pitch_m = table_at(k, 10), storey_m = table_at(k, 11);
      _window(s * tile, t * tile, pitch_m, storey_m, 1.0 / pitch_m, 1.0 / storey_m, windows,
              1.0 / max(footprint_m, 1e-4), seed, light[NIGHT], r, g, b, r, g, b, glow);
      glow *= haze * WINDOW_RGB_values[0];
    }
  }
  return vec3(r * ar + br + glow, g * ag + bg + WINDOW_RGB_values[1] * glow, b * ab + bb + WINDOW_RGB_values[2] * glow);
}

void main() {
  ivec2 place = ivec2(gl_FragCoord.xy);
  vec2 size = vec2(textureSize(visible, 0));
  int codes[4];
  float inverses[4];
  int count = samples * samples;
  bool whole = true;
  for (int n = 0; n < count; ++n) {
    ivec2 at = place * samples + ivec2(n % samples, n / samples);
    vec2 seen = texelFetch(visible, at, 0).xy;
    codes[n] = int(seen.x + 0.5) - 1;
    if (codes[n] >= 0 && texelFetch(shadow_mask, at, 0).x > 0.5) codes[n] |= SHADOW_BIT;
    inverses[n] = seen.y;
    whole = whole && codes[n] == codes[0];
  }
  float pixel = float(samples) / focal;
  vec3 colour = vec3(0.0);
  if (whole) {
    float inverse = count == 1 ? inverses[0] : 0.25 * (inverses[0] + inverses[1] + inverses[2] + inverses[3]);
    vec2 ray = ((vec2(place) + 0.5) * float(samples) - 0.5 * size) / focal;
    colour = seen_through(codes[0], inverse, ray.x, -ray.y, pixel);
  } else {
    for (int n = 0; n < count; ++n) {
      float share = 0.0;
      bool shown = false;
      for (int other = 0; other < count; ++other) {
        if (codes[other] == codes[n]) {
          shown = shown || other < n;
          share += 1.0 / float(count);
        }
      }
      if (shown) continue;
      vec2 ray = (vec2(place * samples + ivec2(n % samples, n / samples)) + 0.5 - 0.5 * size) / focal;
      colour += share * seen_through(codes[n], inverses[n], ray.x, -ray.y, pixel);
    }
  }
  colour *= light[BRIGHTNESS];
  colour = sqrt(clamp(GAIN * colour / (1.0 + SHOULDER * colour), 0.0, 1.0));
  bgra = vec4(colour.bgr, 1.0);
}
"""

_QUAD = """
uniform vec2 size;
void quad(vec2 low, vec2 high) {
  vec2 corner = vec2(float(gl_VertexID & 1), float(gl_VertexID >> 1));
  gl_Position = vec4(mix(floor(low), floor(high) + 1.0, corner) / size * 2.0 - 1.0, 0.0, 1.0);
}
"""

_DISC_VERTEX = """
in vec3 disc; in vec4 spread; in vec3 rgb;
flat out vec3 circle; flat out vec4 reach; flat out vec3 shining;
void main() {
  circle = disc; reach = spread; shining = rgb;
  quad(disc.xy - spread.xy, disc.xy + spread.xy);
}
"""

_DISC_FRAGMENT = """
layout(std430, binding = 1) buffer Still { float still[]; };
uniform sampler2D visible; uniform sampler2D shaded; uniform float halo; uniform int samples; uniform int still_count;
flat in vec3 circle; flat in vec4 reach; flat in vec3 shining; out vec4 bgra;
void main() {
  ivec2 place = ivec2(gl_FragCoord.xy);
  vec2 e = (gl_FragCoord.xy - circle.xy) / reach.xy;
  vec2 seen = texelFetch(visible, place * samples + samples / 2, 0).xy;
  vec3 lamp = shining.bgr / 255.0;
  if (reach.w < 0.0) {
    int k = int(seen.x + 0.5) - 1;
    if (k < 0 || k >= still_count) discard;
    if (!mirrors_lamps(int(still[k * SURFACE_SIZE + 6]), still[k * SURFACE_SIZE + 5])) discard;
    float alpha = reach.z * reflection_glow(e.x, e.y);
    if (alpha <= FAINTEST) discard;
    bgra = vec4(alpha * max(lamp - texelFetch(shaded, place, 0).rgb, 0.0), 0.0);
  } else {
    float alpha = reach.z * lamp_glow(e.x, e.y, reach.x, circle.z, halo);
    if (seen.y > reach.w || alpha <= FAINTEST) discard;
    bgra = vec4(alpha * lamp, alpha);
  }
}
"""

_STREAK_VERTEX = """
in vec2 streak_from; in vec3 streak; uniform float lean; flat out vec2 top; flat out vec3 shape;
void main() {
  top = streak_from; shape = streak;
  quad(streak_from - vec2(streak.y + lean, 0.0), streak_from + vec2(lean * (streak.x + 1.0) + streak.y, streak.x));
}
"""

_STREAK_FRAGMENT = """
uniform sampler2D shaded; uniform float lean; uniform float brightness;
flat in vec2 top; flat in vec3 shape; out vec4 bgra;
void main() {
  ivec2 place = ivec2(gl_FragCoord.xy);
  float x = top.x + (gl_FragCoord.y - top.y) * lean;
  if (place.x < int(x - shape.y) || place.x > int(x + shape.y)) discard;
  bgra = vec4(shape.z * max(vec3(brightness / 255.0) - texelFetch(shaded, place, 0).rgb, 0.0), 0.0);
}
"""

_SHADING = (
    shade._noise, shade._hash01, shade._clamp01, shade._haze, shade._sky, shade._light_at, shade._pattern,
    shade._level, shade._texel, shade._window,
)  # fmt: skip
_BLENDING = (sprites.mirrors_lamps, sprites.reflection_glow, sprites.lamp_glow)


def programs(patterns: textures.Textures) -> Mapping[str, tuple[str, str]]:
    """Vertex and fragment shader by pass: `tiles`, `shadows`, `shade`, `discs`, `streaks`."""
    lens = _constants(raster, "NEAR_M")
    access = "".join(
        (
            _constants(shade, "LIGHT_SIZE") + _constants(mesh, "SURFACE_SIZE"),
            f"const int TEXELS = {patterns.texels.shape[1]};\n",
            array_constant("offsets", patterns.offsets.tolist()) + "\n",
            array_constant("tile_m", patterns.tile_m.tolist()) + "\n",
            array_constant("of_material", patterns.of_material.tolist()) + "\n",
            _ACCESS,
        )
    )
    shading = translate(_SHADING)
    needed = ("SHADOW_BIT", "NO_TEXTURE", "SIDE", "NIGHT", "BRIGHTNESS", "GAIN", "SHOULDER")
    more = _constants(shade, *(name for name in needed if f" {name} =" not in shading))
    window = array_constant("WINDOW_RGB", shade.WINDOW_RGB) + "\n"
    blending = translate(_BLENDING) + "\n" + _constants(mesh, "SURFACE_SIZE") + _constants(sprites, "FAINTEST")
    return {
        "tiles": (_VERSION + lens + _CAMERA + _TILE_VERTEX, _VERSION + _TILE_FRAGMENT),
        "shadows": (
            _VERSION + lens + _CAMERA + _SHADOW_VERTEX,
            _VERSION + _constants(raster, "SHADOW_TOLERANCE") + _SHADOW_FRAGMENT,
        ),
        "shade": (_VERSION + _SCREEN_VERTEX, _VERSION + access + shading + "\n" + more + window + _SHADE_FRAGMENT),
        "discs": (_VERSION + _QUAD + _DISC_VERTEX, _VERSION + blending + _DISC_FRAGMENT),
        "streaks": (_VERSION + _QUAD + _STREAK_VERTEX, _VERSION + _STREAK_FRAGMENT),
    }


def _constants(module: object, *names: str) -> str:
    """GLSL declarations of numbers that a module defines."""
    lines = []
    for name in names:
        text, kind = literal(getattr(module, name))
        lines.append(f"const {kind} {name} = {text};\n")
    return "".join(lines)
