package main

import (
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcd is a member that is its own cluster. It takes the flags of the real command that our harness uses, so that a
// real etcd can stand in for it.
func etcd() *cobra.Command {
	c := embed.NewConfig()
	// NewConfig leaves 0, with which every request is logged as a slow one.
	c.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	var client, peer string
	command := &cobra.Command{
		Use:           "etcd",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			clientURL, err := url.Parse(client)
			if err != nil {
				return err
			}
			peerURL, err := url.Parse(peer)
			if err != nil {
				return err
			}
			c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
			c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
			c.InitialCluster = c.InitialClusterFromName(c.Name)
			return serve(c)
		},
	}
	flags := command.Flags()
	flags.StringVar(&c.Dir, "data-dir", c.Dir, "where the data is")
	flags.StringVar(&c.LogLevel, "log-level", c.LogLevel, "least level that is logged")
	flags.BoolVar(&c.UnsafeNoFsync, "unsafe-no-fsync", false, "do not wait for the disk")
	flags.StringVar(&client, "listen-client-urls", embed.DefaultListenClientURLs, "where clients are answered")
	flags.StringVar(&peer, "listen-peer-urls", embed.DefaultListenPeerURLs, "where peers are answered")
	// Given because the real command wants it with listen-client-urls; always the same.
	flags.String("advertise-client-urls", "", "the same as listen-client-urls")
	return command
}

// serve runs the member until a signal or a failure ends it.
func serve(c *embed.Config) error {
	member, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	defer member.Close()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-ended:
		return nil
	case err := <-member.Err():
		return err
	}
}
