package sandboxfile

import (
	"encoding/json"
	"reflect"
	"strings"
)

// Schema is the JSON Schema of a Sandboxfile, made of the types that read it.
func Schema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[File]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = Name
	return json.MarshalIndent(s, "", "  ")
}

// ConfSchema is that of the YAML of one sandbox (--conf).
func ConfSchema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[Conf]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "sandbox configuration"
	return json.MarshalIndent(s, "", "  ")
}

// schemer is a type that reads itself, and says what.
type schemer interface{ schema() map[string]any }

func schemaOf(t reflect.Type) map[string]any {
	if t.Kind() == reflect.Pointer {
		return schemaOf(t.Elem())
	}
	if s, ok := reflect.New(t).Interface().(schemer); ok {
		return s.schema()
	}
	switch t.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return map[string]any{"type": "integer", "minimum": 0, "maximum": uint64(1)<<t.Bits() - 1}
	case reflect.Uint64, reflect.Int:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Struct:
		return object(t)
	}
	return map[string]any{"type": []string{"string", "number", "boolean"}} // unquoted scalars are texts
}

// object is the schema of a struct. A Sandboxfile may have other keys; nobody should.
func object(t reflect.Type) map[string]any {
	properties := map[string]any{}
	for name, i := range fieldsOf(t) {
		properties[name] = schemaOf(t.Field(i).Type)
	}
	s := map[string]any{"type": "object", "properties": properties, "patternProperties": map[string]any{"^x-": true}, "additionalProperties": false}
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("required"); tag != "" {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
			s["required"] = []string{name}
		}
	}
	return s
}

func words(w ...string) map[string]any { return map[string]any{"enum": w} }

func (*Steps) schema() map[string]any {
	text := map[string]any{"type": "string"}
	return map[string]any{"oneOf": []any{map[string]any{"type": "array", "items": text}, map[string]any{"type": "object", "additionalProperties": text}}}
}

func (*Command) schema() map[string]any {
	text := map[string]any{"type": "string"}
	return map[string]any{"oneOf": []any{text, map[string]any{"type": "array", "items": text}}}
}

func (*AtStart) schema() map[string]any {
	return words(string(StartsNothing), string(StartEnds), string(StartStays))
}

func (*Duration) schema() map[string]any {
	return map[string]any{"type": []string{"string", "integer"}, "pattern": "^[0-9]+(ms|s|m|h)?$"}
}

func (*Network) schema() map[string]any {
	type plain Network
	return map[string]any{"oneOf": []any{words(networkWords...), object(reflect.TypeFor[plain]())}}
}
