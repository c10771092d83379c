package server

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestRevokedEndsStreams revokes a key while what it asked for goes on.
func TestRevokedEndsStreams(t *testing.T) {
	keys := testKeys(t)
	synctest.Test(t, func(t *testing.T) {
		token, key, err := keys.Make("team-a", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s := New(Config{Keys: keys})
		defer s.Close()
		var ended error
		s.Mount(Route{Pattern: "GET /stream", Fail: WriteFailure, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
				ended = r.Context().Err()
			case <-time.After(10 * time.Minute):
			}
		})})
		ask := func() {
			r := httptest.NewRequest("GET", "http://localhost/stream", nil)
			r.Header.Set("Authorization", "Bearer "+token)
			s.ServeHTTP(httptest.NewRecorder(), r)
		}
		if ask(); ended != nil {
			t.Errorf("a good key's ended: %v", ended)
		}
		over := make(chan struct{})
		go func() { ask(); close(over) }()
		synctest.Wait()
		if _, err := keys.Revoke(key.ID); err != nil {
			t.Fatal(err)
		}
		if <-over; ended == nil {
			t.Error("what a revoked key began went on")
		}
	})
}

// TestWhile looks that nothing is asked after the end.
func TestWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		_, stop := While(t.Context(), func() error { asked++; return nil })
		time.Sleep(2*recheck + time.Second)
		stop()
		time.Sleep(time.Hour)
		if asked != 2 {
			t.Errorf("asked %d times", asked)
		}
		no := errors.New("no")
		ctx, stop := While(t.Context(), func() error { return no })
		defer stop()
		<-ctx.Done()
	})
}
